"""Of a remote tree nothing is fetched that is in the store, be it in blobs or in snapshots; damage there is noticed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.caches import OpenCache, cache, open_cache
from support.faulty_proxy import faulty_proxy
from support.images import FileRemote, copy_tree, put_layer, put_layers
from support.registry import registry, repository
from support.trees import describe, make_noisy_tree

from shipway import Cache, Corrupt, oci
from shipway.layers.compression import Compression
from shipway.layers.toc import toc_location
from shipway.local.rows import Record
from shipway.oci import Descriptor
from shipway.transfer.pull import pull
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.looking import open_file

__all__ = ["cache", "open_cache", "registry", "repository"]

CHUNKED, GZIP, ZSTD, TAR, ESTARGZ = (
    Compression.ZSTD_CHUNKED,
    Compression.GZIP,
    Compression.ZSTD,
    Compression.UNCOMPRESSED,
    Compression.ESTARGZ,
)
FORMS = [CHUNKED, ESTARGZ, GZIP, ZSTD, TAR]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of 100 files that do not compress, a large one, and all kinds of things."""
    return make_noisy_tree(tmp_path / "tree", files=100, large=6 << 20)


def pulled(cache: Cache, remote: FileRemote, *layers: Descriptor) -> Record:
    """Pull, let go of the tree, and return its record."""
    diff_ids = [layer.annotations[oci.UNCOMPRESSED] for layer in layers]
    done = pull(cache.store, "test", layers, diff_ids, remote=remote)
    cache.store.drop_snapshots(cache.store.records.release(done.record.id))
    return done.record


def drop_blobs(cache: Cache) -> None:
    """Prune no more than the blobs, which can be made again of snapshots."""
    while os.listdir(cache.root / "blobs/sha256"):
        used = sum(one.size for one in cache.disk_usage()) + cache.overhead()
        assert {one.verdict.value for one in cache.prune(max_used_space=used - 1)} == {"drop-blobs"}


def tree_of(remote: FileRemote, cache: Cache, *layers: Descriptor) -> RemoteTree:
    return RemoteTree(remote, layers, store=cache.store)


def table_size(*layers: Descriptor) -> int:
    return sum(location.length for layer in layers if (location := toc_location(layer)))


def snapshot_of(cache: Cache, record: Record) -> Path:
    return cache.root / "snapshots" / (record.snapshot or "") / "fs"


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(100, len(data), 5_000):
        data[at] ^= 0x55
    path.write_bytes(data)


# Blobs


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_fetched_of_layers_whose_blobs_are_here(
    cache: Cache, remote: FileRemote, tree: Path, tmp_path: Path, form: Compression
) -> None:
    upper = copy_tree(tree, tmp_path / "upper")
    (upper / "new").write_bytes(os.urandom(50_000))
    layers = put_layers(remote, [tree, upper], [form, form])
    pulled(cache, remote, *layers)
    before = remote.traffic
    for number, sources in enumerate([["many/file007"], ["new", "large"], ["many"], []]):
        done = tree_of(remote, cache, *layers).extract(tmp_path / f"out{number}", sources)
        assert done.traffic.received == 0
    shown = tree_of(remote, cache, *layers)
    assert shown.names("many") == [f"file{number:03}" for number in range(100)]
    with open_file(shown, "large") as file:
        file.seek(3 << 20)
        assert file.read(1000) == (tree / "large").read_bytes()[3 << 20 : (3 << 20) + 1000]
    assert remote.traffic == before
    assert describe(tmp_path / "out3") == describe(upper)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", [spoil, Path.unlink, lambda path: os.truncate(path, 5_000)])
def test_what_is_damaged_of_a_blob_is_fetched(
    cache: Cache, remote: FileRemote, tree: Path, form: Compression, damage: Callable[[Path], None]
) -> None:
    layer = put_layer(remote, None, tree, form)
    pulled(cache, remote, layer)
    damage(cache.store.blobs.path(layer.digest))
    out = tree.parent / "out"
    assert tree_of(remote, cache, layer).extract(out).traffic.received > 0
    assert describe(out) == describe(tree)
    shown = tree_of(remote, cache, layer)
    with open_file(shown, "large") as file:
        assert file.read() == (tree / "large").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_damage_here_and_there_is_an_error_that_names_both(
    cache: Cache, remote: FileRemote, tree: Path, form: Compression
) -> None:
    layer = put_layer(remote, None, tree, form)
    pulled(cache, remote, layer)
    spoil(cache.store.blobs.path(layer.digest))
    spoil(remote.path(layer))
    with pytest.raises(Corrupt, match=r"this store.*file remote"):
        tree_of(remote, cache, layer).extract(tree.parent / "out", ["large"])
    assert not (tree.parent / "out").exists()


def test_a_damaged_blob_is_fetched_by_a_pull_and_right_from_then_on(
    cache: Cache, remote: FileRemote, tree: Path
) -> None:
    layer = put_layer(remote, None, tree, GZIP)
    record = pulled(cache, remote, layer)
    for _ in cache.prune(ids=[record.id]):
        pass
    with cache.store.blobs.ingest() as ingest:
        ingest.write(remote.path(layer).read_bytes())
        cache.store.blobs.keep(ingest, layer)
    spoil(cache.store.blobs.path(layer.digest))
    with cache.get(pulled(cache, remote, layer).id) as ref, ref.mounted() as path:
        assert describe(path) == describe(tree)
    assert cache.verify() == []


# Snapshots


def test_of_layers_without_blobs_only_the_tables_are_fetched(
    cache: Cache, remote: FileRemote, tree: Path, tmp_path: Path
) -> None:
    upper = copy_tree(tree, tmp_path / "upper")
    (upper / "new").write_bytes(os.urandom(50_000))
    layers = put_layers(remote, [tree, upper], [CHUNKED, CHUNKED])
    pulled(cache, remote, *layers)
    drop_blobs(cache)
    before = remote.traffic.received
    for number, sources in enumerate([["many/file007"], ["new", "large"], ["many"], []]):
        tree_of(remote, cache, *layers).extract(tmp_path / f"out{number}", sources)
    with open_file(tree_of(remote, cache, *layers), "large") as file:
        assert file.read() == (tree / "large").read_bytes()
    assert remote.traffic.received - before == table_size(*layers)
    assert describe(tmp_path / "out3") == describe(upper)


def test_nothing_at_all_of_a_layer_that_was_put_together(
    cache: Cache, remote: FileRemote, tree: Path, tmp_path: Path
) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    layer = put_layer(remote, None, tree)
    pulled(cache, remote, layer)
    assert cache.store.blobs.get(layer.digest) is None
    before = remote.traffic
    tree_of(remote, cache, layer).extract(tmp_path / "out")
    assert remote.traffic == before
    assert describe(tmp_path / "out") == describe(tree)


@pytest.mark.parametrize("form", [CHUNKED, ESTARGZ])
def test_of_another_layer_what_is_not_in_a_snapshot(
    cache: Cache, remote: FileRemote, tree: Path, form: Compression
) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    layer = put_layer(remote, None, tree, form)
    listed = tree_of(remote, cache, layer)
    listed.names("")
    done = listed.extract(tree.parent / "out")
    assert 10_000 < done.traffic.received < 30_000 + (form is ESTARGZ) * 7_000_000
    assert describe(tree.parent / "out") == describe(tree)


def test_of_a_large_file_changed_here_and_there_the_chunks_around_that(
    cache: Cache, remote: FileRemote, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    data = bytearray(random.Random(3).randbytes(20 << 20))
    (tree / "file").write_bytes(data)
    pulled(cache, remote, put_layer(remote, None, tree))
    for at in range(1 << 20, 20 << 20, 3 << 20):
        data[at : at + 100] = os.urandom(100)
    (tree / "file").write_bytes(data)
    layer = put_layer(remote, None, tree)
    done = tree_of(remote, cache, layer).extract(tmp_path / "out")
    assert done.traffic.received < 2 << 20
    assert (tmp_path / "out/file").read_bytes() == data
    with open_file(tree_of(remote, cache, layer), "file") as file:
        before = remote.traffic.received
        assert file.read() == data
        assert remote.traffic.received == before  # the extract kept what it fetched


def test_files_of_a_snapshot_that_are_damaged_or_gone_are_fetched(cache: Cache, remote: FileRemote, tree: Path) -> None:
    layer = put_layer(remote, None, tree)
    files = snapshot_of(cache, pulled(cache, remote, layer))
    drop_blobs(cache)
    spoil(files / "large")
    spoil(files / "many/file010")
    (files / "many/file020").unlink()
    done = tree_of(remote, cache, layer).extract(tree.parent / "out")
    assert (6 << 20) < done.traffic.received < (6 << 20) + 60_000 + table_size(layer)
    assert describe(tree.parent / "out") == describe(tree)


def test_what_a_read_file_comes_from_is_not_pruned_under_it(cache: Cache, remote: FileRemote, tree: Path) -> None:
    layer = put_layer(remote, None, tree)
    pulled(cache, remote, layer)
    drop_blobs(cache)
    shown = tree_of(remote, cache, layer)
    with open_file(shown, "large") as file:
        assert file.read(10) == (tree / "large").read_bytes()[:10]
        assert list(cache.prune()) == []
        before = remote.traffic
        assert file.read() == (tree / "large").read_bytes()[10:]
        assert remote.traffic == before
    assert len(list(cache.prune())) == 1


def test_a_file_may_outlive_its_store(open_cache: OpenCache, remote: FileRemote, tree: Path) -> None:
    cache = open_cache("closing")
    layer = put_layer(remote, None, tree)
    pulled(cache, remote, layer)
    drop_blobs(cache)
    file = open_file(tree_of(remote, cache, layer), "large")
    file.read(10)
    cache.close()
    file.close()


# As users see it


def test_a_ref_that_was_pulled_or_pushed_from_here_is_extracted_from_here(
    registry: str, repository: str, open_cache: OpenCache, tree: Path, tmp_path: Path
) -> None:
    maker, puller = open_cache("maker"), open_cache("puller")
    with faulty_proxy(registry) as proxy:
        reference = f"oci://{proxy.host}/{repository}:x"
        with maker.import_tree(tree) as ref:
            ref.push(reference)
        with puller.remote(reference) as remote:
            remote.pull().release()
        for number, mine in enumerate([maker, puller]):
            proxy.set()
            with mine.remote(reference) as remote:
                remote.extract(tmp_path / f"out{number}")
                assert remote.stat("large").size == 6 << 20
                assert len(list(remote.walk("many"))) == 101
                with remote.open("many/file003") as file:
                    assert file.read() == (tree / "many/file003").read_bytes()
            assert describe(tmp_path / f"out{number}") == describe(tree)
            assert [one.path for one in proxy.passed if "/blobs/" in one.path] == []
