"""Pulling moves what is missing: layers are put together of what is here, and go on where they broke off."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zstandard
from support.caches import OpenCache, cache, open_cache
from support.images import FileRemote, copy_tree, pack_layer, put_layer
from support.trees import describe, make_noisy_tree

from shipway import Cache, Progress, oci
from shipway.errors import Corrupt, DigestMismatch
from shipway.explanations import LayerPulled, Way
from shipway.layers import chunked
from shipway.layers.compression import Compression, decompressed
from shipway.layers.repack import repack
from shipway.layers.toc import toc_location
from shipway.local import parts
from shipway.local.rows import Record
from shipway.oci import Descriptor
from shipway.progress import ProgressCallback
from shipway.transfer import fetch
from shipway.transfer import pull as pull_module
from shipway.transfer.pull import pull

__all__ = ["cache", "open_cache"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of 200 files that do not compress, a large one, and all kinds of things."""
    return make_noisy_tree(tmp_path / "tree", files=200, large=12 << 20)


def pulled(
    cache: Cache, remote: FileRemote, *layers: Descriptor, progress: ProgressCallback | None = None
) -> tuple[Record, LayerPulled]:
    """Pull, let go of the tree, and return its record and how its last layer came."""
    diff_ids = [layer.annotations[oci.UNCOMPRESSED] for layer in layers]
    done = pull(cache.store, "test", layers, diff_ids, remote=remote, progress=progress)
    cache.store.drop_snapshots(cache.store.records.release(done.record.id))
    assert len(done.layers) == len(layers)
    return done.record, done.layers[-1]


def shown(cache: Cache, record: Record) -> dict[str, object]:
    with cache.get(record.id) as ref, ref.mounted() as path:
        return dict(describe(path))


def table_size(layer: Descriptor) -> int:
    location = toc_location(layer)
    assert location is not None
    return location.length


def received(remote: FileRemote) -> int:
    return remote.traffic.received


def without_own_headers(layer: Descriptor) -> Descriptor:
    """Return a layer as another writer would describe it."""
    annotations = {key: value for key, value in layer.annotations.items() if key != chunked.HEADERS}
    return msgspec.structs.replace(layer, annotations=annotations)


def test_of_a_tree_imported_anew_only_what_changed_moves(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    (tree / "many/file008").rename(tree / "many/another name")
    second = put_layer(remote, None, tree)
    before = received(remote)
    record, layer = pulled(cache, remote, second)
    assert layer.way is Way.ASSEMBLED
    assert received(remote) - before == layer.fetched <= 1.3 * 10_000 + table_size(second)
    assert layer.tables == table_size(second)
    assert layer.deduplicated > 15_000_000
    assert shown(cache, record) == describe(tree)


def test_the_headers_of_other_writers_come_from_the_tar_split(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, without_own_headers(put_layer(remote, None, tree)))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    second = without_own_headers(put_layer(remote, None, tree))
    record, layer = pulled(cache, remote, second)
    assert layer.way is Way.ASSEMBLED
    assert layer.fetched < 30_000 + 2 * table_size(second)
    assert shown(cache, record) == describe(tree)


@pytest.mark.parametrize("own", [True, False])
def test_layers_that_were_converted_are_put_together_whose_headers_they_may_be(
    cache: Cache, remote: FileRemote, tree: Path, tmp_path: Path, own: bool
) -> None:
    def converted() -> Descriptor:
        if own:
            archive = pack_layer(None, tree, Compression.UNCOMPRESSED)[1]
        else:
            command = ["tar", "-c", "--format=pax", "--xattrs", "-C", str(tree), "."]
            archive = subprocess.run(command, check=True, capture_output=True).stdout
        out = io.BytesIO()
        with (tmp_path / "spool").open("w+b") as spool:
            source = decompressed(iter([archive]), Compression.UNCOMPRESSED)
            made = repack(source, out, spool, Compression.ZSTD_CHUNKED, None).descriptor
        remote.put_blob(made, lambda: io.BytesIO(out.getvalue()))
        assert (chunked.HEADERS in made.annotations) == own
        return made

    pulled(cache, remote, converted())
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    record, layer = pulled(cache, remote, converted())
    assert layer.way is Way.ASSEMBLED
    assert shown(cache, record) == describe(tree)


def with_another_table(remote: FileRemote, layer: Descriptor, old: bytes, new: bytes) -> Descriptor:
    """Put a layer whose table of contents has `new` for `old`, under the right digests, and the same archive."""
    location = toc_location(layer)
    assert location is not None
    blob = remote.path(layer).read_bytes()
    end = location.offset - chunked.SKIPPABLE.size
    text = zstandard.ZstdDecompressor().stream_reader(blob[location.offset :], read_across_frames=True)
    table = text.read(location.uncompressed)
    assert table.count(old) == 1
    table = table.replace(old, new)
    packed = zstandard.ZstdCompressor().compress(table)
    rest = blob[location.offset + location.length :]
    made = blob[:end] + chunked.skippable(len(packed)) + packed + rest
    split = layer.annotations[chunked.PREFIX + chunked.TAR_SPLIT_POSITION].split(":")
    split[0] = str(int(split[0]) + len(packed) - location.length)
    changes = {
        chunked.CHECKSUM: oci.sha256(packed),
        chunked.POSITION: f"{location.offset}:{len(packed)}:{len(table)}:1",
        chunked.TAR_SPLIT_POSITION: ":".join(split),
    }
    annotations = layer.annotations | {chunked.PREFIX + key: value for key, value in changes.items()}
    described = Descriptor(
        media_type=layer.media_type, digest=oci.sha256(made), size=len(made), annotations=annotations
    )
    remote.put_blob(described, lambda: io.BytesIO(made))
    return described


@pytest.mark.parametrize("own", [True, False])
def test_a_table_that_says_other_things_than_the_archive_is_noticed_when_it_is_put_together(
    cache: Cache, remote: FileRemote, tree: Path, own: bool
) -> None:
    layer = put_layer(remote, None, tree)
    named = b'"name":"many/file007","mode":'
    lying = with_another_table(remote, layer, named + b"420", named + b"2541")
    lying = lying if own else without_own_headers(lying)
    pulled(cache, remote, layer)
    below = put_layer(remote, None, tree / "bin")
    with pytest.raises(Corrupt, match="table of contents says of 'many/file007'"):
        pulled(cache, remote, below, lying)


def test_of_a_large_file_changed_here_and_there_the_chunks_around_that_move(
    cache: Cache, remote: FileRemote, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    data = bytearray(random.Random(3).randbytes(40 << 20))
    (tree / "file").write_bytes(data)
    pulled(cache, remote, put_layer(remote, None, tree))
    for at in (5 << 20, 30 << 20):
        data[at : at + 100] = os.urandom(100)
    data[20 << 20 : 20 << 20] = b"inserted"
    (tree / "file").write_bytes(data)
    second = put_layer(remote, None, tree)
    record, layer = pulled(cache, remote, second)
    assert layer.way is Way.ASSEMBLED
    assert layer.fetched < 3 * (2 << 20) + table_size(second)
    assert shown(cache, record) == describe(tree)


def test_contents_are_known_when_the_blob_is_gone(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    used = sum(one.size for one in cache.disk_usage()) + cache.overhead()
    dropped = list(cache.prune(max_used_space=used - 1_000_000))
    assert [one.verdict.value for one in dropped] == ["drop-blobs"]
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    record, layer = pulled(cache, remote, put_layer(remote, None, tree))
    assert layer.way is Way.ASSEMBLED
    assert shown(cache, record) == describe(tree)


def test_what_was_put_together_serves_the_next(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    records = []
    for number in range(2):
        (tree / "many/file007").write_bytes(os.urandom(10_000) + bytes([number]))
        record, layer = pulled(cache, remote, put_layer(remote, None, tree))
        assert layer.way is Way.ASSEMBLED
        records.append(record)
    assert shown(cache, records[-1]) == describe(tree)
    assert not list(cache.store.kept.directory.glob("partial-*"))


def test_layers_over_each_other_are_put_together_at_a_time(cache: Cache, remote: FileRemote, tree: Path) -> None:
    def two_layers(directory: Path) -> list[Descriptor]:
        upper = copy_tree(tree, directory)
        for number in range(100):
            (upper / f"many/file{number:03}").write_bytes(random.Random(number).randbytes(21_000))
        (upper / "many/file150").unlink()
        (upper / "changed").write_bytes(os.urandom(10_000))
        return [put_layer(remote, None, tree), put_layer(remote, tree, upper)]

    pulled(cache, remote, *two_layers(tree.parent / "first"))
    (tree / "many/file199").write_bytes(os.urandom(10_000))
    layers = two_layers(tree.parent / "second")
    before = received(remote)
    record, layer = pulled(cache, remote, *layers)
    assert layer.way is Way.ASSEMBLED
    assert received(remote) - before < 30_000 + sum(map(table_size, layers))
    assert shown(cache, record) == describe(tree.parent / "second")


def test_a_damaged_file_is_not_used(cache: Cache, remote: FileRemote, tree: Path) -> None:
    record, _ = pulled(cache, remote, put_layer(remote, None, tree))
    files = cache.root / "snapshots" / (record.snapshot or "") / "fs"
    (files / "many/file100").write_bytes(b"x" * 20_000)
    (files / "many/file101").unlink()
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    record, layer = pulled(cache, remote, put_layer(remote, None, tree))
    assert layer.way is Way.ASSEMBLED
    assert shown(cache, record) == describe(tree)


def test_a_layer_of_which_little_is_here_is_fetched_whole(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    (tree / "large").write_bytes(os.urandom(30 << 20))
    second = put_layer(remote, None, tree)
    record, layer = pulled(cache, remote, second)
    assert (layer.way, layer.whole) == (Way.FETCHED, second.size)
    assert cache.store.blobs.get(second.digest)
    assert shown(cache, record) == describe(tree)


def test_tables_that_lie_lead_to_the_whole_blob(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    second = put_layer(remote, None, tree)
    other = put_layer(remote, None, copy_tree(tree / "many", tree.parent / "other"))
    where = chunked.PREFIX + chunked.TAR_SPLIT_POSITION
    lying = without_own_headers(second)
    lying = msgspec.structs.replace(lying, annotations={**lying.annotations, where: other.annotations[where]})
    record, layer = pulled(cache, remote, lying)
    assert layer.way is Way.FETCHED
    assert "tar-split" in layer.reason or "table" in layer.reason
    assert shown(cache, record) == describe(tree)


def test_a_pull_and_an_extract_share_what_they_fetched(cache: Cache, remote: FileRemote, tree: Path) -> None:
    from shipway.transfer.remote_tree import RemoteTree  # noqa: PLC0415

    layer = put_layer(remote, None, tree)
    RemoteTree(remote, [layer], store=cache.store).extract(tree.parent / "out")
    before = received(remote)
    record, moved = pulled(cache, remote, layer)
    assert (moved.way, moved.fetched, received(remote) - before) == (Way.ASSEMBLED, 0, 0)
    assert shown(cache, record) == describe(tree)


# Breaking off


class Stop(Exception):
    """Raised by a progress callback."""


def stop_after(size: int) -> ProgressCallback:
    def stop(progress: Progress) -> None:
        if progress.task == "pull" and progress.done > size:
            raise Stop

    return stop


@pytest.mark.parametrize("compression", [Compression.ZSTD_CHUNKED, Compression.GZIP])
def test_an_interrupted_pull_goes_on_where_it_was(
    cache: Cache, remote: FileRemote, tree: Path, compression: Compression
) -> None:
    layer = put_layer(remote, None, tree, compression)
    stop = stop_after(6_000_000)
    with pytest.raises(Stop):
        pulled(cache, remote, layer, progress=stop)
    assert os.listdir(cache.root / "ingest") == []
    record, moved = pulled(cache, remote, layer)
    assert moved.resumed > 5_000_000
    assert moved.resumed + moved.whole == layer.size
    assert received(remote) < layer.size + (2 << 20)
    assert shown(cache, record) == describe(tree)
    assert not list(cache.store.kept.directory.glob("partial-*"))


def test_so_does_one_that_puts_a_layer_together(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, put_layer(remote, None, tree))
    for number in range(200):
        if number % 50 == 0:
            (tree / f"many/file{number:03}").write_bytes(os.urandom(1_500_000))
    second = put_layer(remote, None, tree)
    stop = stop_after(3_000_000)
    with pytest.raises(Stop):
        pulled(cache, remote, second, progress=stop)
    before = received(remote)
    record, moved = pulled(cache, remote, second)
    assert moved.way is Way.ASSEMBLED
    assert moved.tables == 0
    assert received(remote) - before == moved.ranges < 5_000_000
    assert shown(cache, record) == describe(tree)


KILLED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
import msgspec
from support.images import FileRemote
from shipway import Cache
from shipway.oci import Descriptor, UNCOMPRESSED
from shipway.transfer.pull import pull

def die(progress):
    if progress.done > 6_000_000:
        os.kill(os.getpid(), 9)

layer = msgspec.json.decode(sys.argv[1], type=Descriptor)
cache = Cache.open({root!r})
pull(cache.store, "x", [layer], [layer.annotations[UNCOMPRESSED]], remote=FileRemote(Path({remote!r})), progress=die)
"""


def test_a_killed_pull_goes_on_where_it_was(
    open_cache: OpenCache, remote: FileRemote, tree: Path, tmp_path: Path
) -> None:
    layer = put_layer(remote, None, tree)
    cache = open_cache("killed")
    root = str(cache.root)
    cache.close()
    script = KILLED.format(path=[path for path in sys.path if path], root=root, remote=str(tmp_path / "remote"))
    died = subprocess.run([sys.executable, "-c", script, msgspec.json.encode(layer).decode()], check=False)
    assert died.returncode == -9
    cache = open_cache("killed")
    record, moved = pulled(cache, remote, layer)
    assert moved.resumed > 5_000_000
    assert moved.resumed + moved.whole == layer.size
    assert shown(cache, record) == describe(tree)


def test_a_damaged_beginning_is_thrown_away(cache: Cache, remote: FileRemote, tree: Path) -> None:
    layer = put_layer(remote, None, tree)
    stop = stop_after(6_000_000)
    with pytest.raises(Stop):
        pulled(cache, remote, layer, progress=stop)
    (partial,) = cache.store.kept.directory.glob("partial-*")
    data = bytearray(partial.read_bytes())
    data[1_000_000] ^= 1
    partial.write_bytes(data)
    record, moved = pulled(cache, remote, layer)
    assert (moved.resumed, moved.whole) == (0, layer.size)
    assert shown(cache, record) == describe(tree)


def test_a_wrong_blob_is_not_gone_on_with(cache: Cache, remote: FileRemote, tree: Path) -> None:
    layer = put_layer(remote, None, tree)
    right = remote.path(layer).read_bytes()
    remote.path(layer).write_bytes(b"\0" + right[1:])
    with pytest.raises(DigestMismatch):
        pulled(cache, remote, layer)
    remote.path(layer).write_bytes(right)
    _, moved = pulled(cache, remote, layer)
    assert (moved.resumed, moved.whole) == (0, layer.size)


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 1 << 20)
    monkeypatch.setattr(fetch, "LARGE", 4 << 20)


def test_a_large_layer_comes_over_several_connections(
    cache: Cache, remote: FileRemote, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    layer = put_layer(remote, None, tree)
    record, moved = pulled(cache, remote, layer)
    assert moved.whole == layer.size == received(remote)
    assert len(remote.requests) == -(-layer.size // (1 << 20))
    assert shown(cache, record) == describe(tree)
    assert oci.sha256(cache.store.blobs.path(layer.digest).read_bytes()) == layer.digest


def break_off(cache: Cache, remote: FileRemote, layer: Descriptor) -> Path:
    """Pull a layer a little way, and return the file that has what came of it."""
    with pytest.raises(Stop):
        pulled(cache, remote, layer, progress=stop_after(3_000_000))
    (partial,) = cache.store.kept.directory.glob("partial-*")
    assert cache.verify() == []
    return partial


def test_what_came_of_parts_does_not_come_again(
    cache: Cache, remote: FileRemote, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    layer = put_layer(remote, None, tree)
    break_off(cache, remote, layer)
    ahead = received(remote)
    assert ahead > 5_000_000  # more than its reader has taken
    record, moved = pulled(cache, remote, layer)
    assert moved.resumed == ahead
    assert moved.resumed + moved.whole == layer.size == received(remote)
    assert shown(cache, record) == describe(tree)
    assert oci.sha256(cache.store.blobs.path(layer.digest).read_bytes()) == layer.digest


@pytest.mark.parametrize("at", [100, 4_500_000])
def test_a_damaged_part_is_thrown_away_with_all_others(
    cache: Cache, remote: FileRemote, tree: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    small_parts(monkeypatch)
    layer = put_layer(remote, None, tree)
    partial = break_off(cache, remote, layer)
    with partial.open("rb+") as file:
        file.seek(at)
        file.write(bytes(1000))
    record, moved = pulled(cache, remote, layer)
    assert (moved.resumed, moved.whole) == (0, layer.size)
    assert shown(cache, record) == describe(tree)


def test_parts_that_came_serve_a_pull_over_one_connection(
    cache: Cache, remote: FileRemote, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    layer = put_layer(remote, None, tree)
    break_off(cache, remote, layer)
    monkeypatch.setattr(pull_module, "PARALLEL", 1)
    record, moved = pulled(cache, remote, layer)
    assert moved.resumed > 5_000_000
    assert received(remote) == layer.size
    assert shown(cache, record) == describe(tree)


def test_a_beginning_is_gone_on_with_over_several_connections(
    cache: Cache, remote: FileRemote, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = put_layer(remote, None, tree)
    break_off(cache, remote, layer)
    small_parts(monkeypatch)
    remote.requests.clear()
    record, moved = pulled(cache, remote, layer)
    assert moved.resumed + moved.whole == layer.size
    assert moved.resumed > 2_000_000
    assert len(remote.requests) > 4
    assert shown(cache, record) == describe(tree)
