"""From one store to another: through a worker's own server, and through a registry."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.caches import OpenCache, counts, read, snapshots_on_disk, write
from support.faulty_proxy import faulty_proxy
from support.registry import PASSWORD, USER, TokenRegistry
from support.trees import Seen, describe, free_port, make_varied_tree

from shipway import (
    Cache,
    CachePolicy,
    Invalid,
    LocalImmutableRef,
    NoSpace,
    NotFound,
    Progress,
    RemoteImmutableRef,
    Unavailable,
)
from shipway.remote_handles import RemoteHandle
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

FIXTURES = Path(__file__).parent.parent / "fixtures" / "buildkit"


@contextmanager
def served(cache: Cache) -> Iterator[str]:
    """Serve a store and yield its reference."""
    with serving(StoreBackend(cache)) as url:
        yield "oci://" + url.removeprefix("http://")


@pytest.fixture
def worker(open_cache: OpenCache) -> Iterator[tuple[Cache, str]]:
    """Yield a store that is served, and its reference."""
    cache = open_cache("served")
    with served(cache) as reference:
        yield cache, reference


def shown(ref: LocalImmutableRef) -> dict[str, Seen]:
    with ref.mounted() as path:
        return describe(path)


def test_a_tree_comes_back_exactly(worker: tuple[Cache, str], cache: Cache, tmp_path: Path) -> None:
    other, reference = worker
    tree = make_varied_tree(tmp_path / "tree")
    with other.import_tree(tree) as mine:
        assert shown(mine) == describe(tree)
        with cache.remote(f"{reference}/shipway:{mine.id}") as remote, remote.pull() as pulled:
            assert shown(pulled) == describe(tree)


def test_a_local_and_a_remote_ref_extract_to_the_same(worker: tuple[Cache, str], cache: Cache, tmp_path: Path) -> None:
    other, reference = worker
    tree = make_varied_tree(tmp_path / "tree")
    with other.import_tree(tree) as mine, cache.remote(f"{reference}/shipway:{mine.id}") as remote:
        for number, sources in enumerate([(), ("/bin", "deep"), ("bin/tool", "third", "sparse", "fifo")]):
            here, there = tmp_path / f"here{number}", tmp_path / f"there{number}"
            mine.extract(here, *sources)
            remote.extract(there, *sources)
            assert describe(here, dir_times=False) == describe(there, dir_times=False)
        assert describe(tmp_path / "here0") == describe(tree)


def test_extracting_one_file_moves_the_manifest_the_table_and_its_chunk(
    worker: tuple[Cache, str], cache: Cache, tmp_path: Path
) -> None:
    other, reference = worker
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"file{number:03}").write_bytes(os.urandom(20_000))
    with other.import_tree(tree) as mine:
        reference = f"{reference}/shipway:{mine.id}"
        with cache.remote(reference) as remote:
            done = remote.extract(tmp_path / "out", "file123")
            assert (tmp_path / "out/file123").read_bytes() == (tree / "file123").read_bytes()
            assert done.traffic.requests == 2
            assert done.traffic.received < 60_000
            assert remote.size() > 6_000_000
    assert counts(cache) == (0, 0)


def test_what_is_there_already_does_not_move(worker: tuple[Cache, str], cache: Cache, tmp_path: Path) -> None:
    _, reference = worker
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(1_000_000))
    with cache.import_tree(tmp_path / "tree") as base:
        first = base.push(f"{reference}/a:one")
        assert (first.layers, first.layers_moved) == (1, 1)
        assert first.traffic.sent > 1_000_000
        again = base.push(f"{reference}/a:two")
        assert again.layers_moved == 0
        assert again.traffic.sent < 2_000
        assert again.digest == first.digest
        with cache.new(base) as work:
            write(work, small="change")
            with work.commit() as changed:
                pushed = changed.push(f"{reference}/a:three")
        assert (pushed.layers, pushed.layers_moved) == (2, 1)
        assert pushed.traffic.sent < 5_000


def test_pulling_what_is_here_already_moves_no_layer(worker: tuple[Cache, str], cache: Cache, tmp_path: Path) -> None:
    other, reference = worker
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(1_000_000))
    with other.import_tree(tmp_path / "tree") as base, other.new(base) as work:
        write(work, small="change")
        with work.commit() as changed:
            other.put("base", base)
            other.put("changed", changed)
    with Cache.open(cache.root, remotes=[reference]) as mine:
        for key, most in (("base", 1_010_000), ("changed", 20_000), ("changed", 10_000)):
            found = mine.lookup(key)
            assert isinstance(found, RemoteImmutableRef)
            with found, found.pull():
                assert found.traffic.received < most
    assert snapshots_on_disk(cache) == 2


def test_a_key_is_found_here_then_in_the_remotes(worker: tuple[Cache, str], open_cache: OpenCache) -> None:
    other, reference = worker
    mine = open_cache("mine", remotes=[f"oci://127.0.0.1:{free_port()}", reference])
    with other.new() as work:
        write(work, file="theirs")
        other.put("key", work.commit())
    found = mine.lookup("key")
    assert isinstance(found, RemoteImmutableRef)
    with found, found.pull() as local:
        assert read(local, "file") == "theirs"
        mine.put("key", local)
    here = mine.lookup("key")
    assert isinstance(here, LocalImmutableRef)
    here.release()
    with pytest.raises(Unavailable):  # one remote could not be asked: this is no miss
        mine.lookup("nobody has it")


def test_a_key_whose_ref_is_gone_is_a_miss_and_forgotten(cache: Cache) -> None:
    with cache.new() as work, work.commit() as done:
        cache.put("key", done)
    assert [key.key for key in cache.keys()] == ["key"]  # noqa: SIM118  no mapping
    list(cache.prune())
    assert cache.lookup("key") is None
    assert list(cache.keys()) == []


def test_keys_are_listed_in_order_all_or_those_of_one_ref(cache: Cache) -> None:
    with cache.new() as work, work.commit() as one, cache.new() as other_work, other_work.commit() as other:
        for key, ref in (("b", one), ("c", other), ("a", one)):
            cache.put(key, ref)
        assert [found.key for found in cache.keys()] == ["a", "b", "c"]  # noqa: SIM118  no mapping
        assert [found.key for found in cache.keys(one.id)] == ["a", "b"]
        assert list(cache.keys("nobody")) == []


def test_the_last_put_wins_and_keys_may_be_bytes(cache: Cache) -> None:
    refs = []
    for text in ("one", "two"):
        with cache.new() as work:
            write(work, file=text)
            refs.append(work.commit())
            cache.put(b"\xff\x00", refs[-1])
    found = cache.lookup(b"\xff\x00")
    assert found is not None
    assert found.id == refs[1].id


def test_pushing_a_key_puts_it_at_the_other_worker(worker: tuple[Cache, str], cache: Cache) -> None:
    other, reference = worker
    with cache.new() as work:
        write(work, file="sent")
        with work.commit() as done:
            cache.put("result", done, push_to=reference)
    found = other.lookup("result")
    assert isinstance(found, LocalImmutableRef)
    with found:
        assert read(found, "file") == "sent"


def test_a_key_travels_by_any_registry(registry: str, repository: str, open_cache: OpenCache, tmp_path: Path) -> None:
    place = f"oci://{registry}/{repository}"
    one, two = open_cache("one"), open_cache("two", remotes=[place])
    tree = make_varied_tree(tmp_path / "tree")
    with one.import_tree(tree) as base, one.new(base) as work:
        write(work, change="on top")
        with work.commit() as done:
            one.put("deps", done, push_to=place)
            expected = shown(done)
    found = two.lookup("deps")
    assert isinstance(found, RemoteImmutableRef)
    with found:
        found.extract(tmp_path / "out", "change", "bin/tool")
        assert (tmp_path / "out/change").read_text() == "on top"
        with found.pull() as pulled:
            assert shown(pulled) == expected
    assert two.lookup("nobody put this") is None


def test_a_registry_that_wants_tokens_gets_them(
    token_registry: TokenRegistry, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {token_registry.host: {"username": USER, "password": PASSWORD}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
    with cache.new() as work:
        write(work, file="secret")
        with work.commit() as done:
            done.push(f"oci://{token_registry.host}/private/tree:one")
    with cache.remote(f"oci://{token_registry.host}/private/tree:one") as remote:
        remote.extract(tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "secret"


def test_two_that_pull_the_same_at_once_move_it_once(
    worker: tuple[Cache, str], open_cache: OpenCache, tmp_path: Path
) -> None:
    other, reference = worker
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(3_000_000))
    with other.import_tree(tmp_path / "tree") as base:
        reference = f"{reference}/shipway:{base.id}"
    caches = [open_cache("same"), open_cache("same")]
    received = []

    def pull(cache: Cache) -> None:
        with cache.remote(reference) as remote, remote.pull():
            received.append(remote.traffic.received)

    threads = [threading.Thread(target=pull, args=[cache]) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(received) == 2
    assert sum(received) < 3_500_000
    assert len(list(caches[0].disk_usage())) == 1


def test_processes_that_pull_the_same_at_once_move_it_once(open_cache: OpenCache, tmp_path: Path) -> None:
    other, mine = open_cache("other"), open_cache("mine")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(10_000_000))
    with (
        other.import_tree(tmp_path / "tree") as base,
        serving(StoreBackend(other)) as url,
        faulty_proxy(url.removeprefix("http://")) as proxy,
    ):
        reference = f"oci://{proxy.host}/shipway:{base.id}"
        with mine.remote(reference) as remote:
            assert isinstance(remote, RemoteHandle)
            (layer,) = remote.layers
        command = [sys.executable, "-m", "shipway", "--root", str(mine.root), "pull", reference]
        pulls = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
        ids = {pull.communicate(timeout=60)[0] for pull in pulls}
        passed = proxy.passed
    assert [pull.returncode for pull in pulls] == [0, 0, 0]
    assert len(ids) == 1
    assert sum(one.path.endswith(layer.descriptor.digest) for one in passed) == 1


class Stop(Exception):
    """Raised by a progress callback."""


def test_a_callback_that_raises_stops_a_pull_and_leaves_nothing(
    worker: tuple[Cache, str], cache: Cache, tmp_path: Path
) -> None:
    other, reference = worker
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(5_000_000))
    with other.import_tree(tmp_path / "tree") as base:
        reference = f"{reference}/shipway:{base.id}"

    def stop(progress: Progress) -> None:
        if progress.done > 1_000_000:
            raise Stop

    with cache.remote(reference) as remote:
        with pytest.raises(Stop):
            remote.pull(progress=stop)
        with pytest.raises(Stop):
            remote.extract(tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    assert_untouched(cache)


def test_a_callback_that_raises_stops_an_import_and_a_push(
    worker: tuple[Cache, str], cache: Cache, tmp_path: Path
) -> None:
    other, reference = worker
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / f"tree/big{number}").write_bytes(os.urandom(3_000_000))

    def stop(progress: Progress) -> None:
        if progress.done > 1_000_000:
            raise Stop

    with pytest.raises(Stop):
        cache.import_tree(tmp_path / "tree", progress=stop)
    assert_untouched(cache)
    with cache.import_tree(tmp_path / "tree") as mine, pytest.raises(Stop):
        mine.push(f"{reference}/a:b", progress=stop)
    with pytest.raises(NotFound):
        cache.remote(f"{reference}/a:b")
    assert counts(other) == (0, 0)


def assert_untouched(cache: Cache) -> None:
    """Assert that nothing at all is in a store."""
    assert counts(cache) == (0, 0)
    assert snapshots_on_disk(cache) == 0
    assert os.listdir(cache.root / "ingest") == []
    assert os.listdir(cache.root / "blobs/sha256") == []


def test_a_second_layer_holds_only_what_differs(cache: Cache, tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    with cache.import_tree(tree) as base:
        (tree / "empty").write_text("not any more")
        (tree / "bin/link").unlink()
        shutil.rmtree(tree / "deep")
        with cache.import_tree(tree, base) as changed:
            assert changed.size() < base.size() or cache.driver.name == "native"
            assert shown(changed) == describe(tree)
            assert shown(base) != describe(tree)
            chain = cache.store.snapshot_chain(cache.store.records.get(changed.id))
            assert [(entry.path, entry.kind) for entry in cache.driver.changes(chain)] == [
                ("", "dir"),
                ("bin", "dir"),
                ("bin/link", "whiteout"),
                ("deep", "whiteout"),
                ("empty", "reg"),
            ]


def test_the_same_tree_has_the_same_diff_id_on_every_driver(
    open_cache: OpenCache, cache: Cache, tmp_path: Path
) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    native = Cache.open(tmp_path / "native", driver="native")
    digests = set()
    for store in (open_cache("again"), cache, native):
        with store.import_tree(tree) as base, store.new(base) as work:
            write(work, empty="changed", new="file")
            with work.mounted() as path:
                os.utime(path / "empty", ns=(1, 1))
                os.utime(path / "new", ns=(1, 1))
                os.utime(path, ns=(1, 1))
            with work.commit() as done:
                done.finalize()
                chain = store.store.snapshot_chain(store.store.records.get(done.id))
                digests.add(str(list(store.driver.changes(chain))))
    native.close()
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("oci://127.0.0.1:PORT/a", Unavailable),
        ("https://example.com/a", Invalid),
        ("oci://127.0.0.1:PORT/UPPER", Invalid),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_typed_error(cache: Cache, reference: str, error: type[Exception]) -> None:
    reference = reference.replace("PORT", str(free_port()))
    with pytest.raises(error):
        cache.remote(reference)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.root
def test_what_buildkit_built_is_pulled_and_extracted_exactly(
    worker: tuple[Cache, str], cache: Cache, tmp_path: Path
) -> None:
    other, reference = worker
    target = reference.replace("oci://", "docker://") + "/buildkit:image"
    subprocess.run(
        [
            *("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"),
            *(f"oci-archive:{FIXTURES / 'image.oci.tar'}", target),
        ],
        check=True,
        capture_output=True,
    )
    assert counts(other) == (0, 5)
    expected = tmp_path / "expected"
    expected.mkdir()
    archive = str(FIXTURES / "rootfs-final.tar.xz")
    subprocess.run(["tar", "-x", "-p", "--xattrs", "-f", archive, "-C", str(expected)], check=True)
    with cache.remote(f"{reference}/buildkit:image") as remote, remote.pull() as pulled:
        extracted, here = tmp_path / "extracted", tmp_path / "here"
        remote.extract(extracted, "/deps", "/opt", "/data")
        pulled.extract(here)
        for name in ("deps", "opt", "data"):
            want = plain(describe(expected / name))
            assert plain(describe(here / name)) == want
            assert plain(describe(extracted / name)) == want


def plain(tree: dict[str, Seen]) -> dict[str, Seen]:
    """Leave out what the reference archive does not hold, xattrs, and times: it is of another build."""
    return {path: dataclasses.replace(seen, xattrs=(), mtime_ns=0) for path, seen in tree.items()}


@pytest.mark.root
def test_a_full_disk_is_an_error_of_its_own_and_leaves_the_store_as_it_was(
    worker: tuple[Cache, str], tmp_path: Path
) -> None:
    other, reference = worker
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(os.urandom(12_000_000))
    with other.import_tree(tmp_path / "tree") as base:
        reference = f"{reference}/shipway:{base.id}"
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], check=True)
    try:
        with Cache.open(small / "store", driver="native") as cache:
            with cache.new(policy=CachePolicy.RETAIN) as work:
                write(work, kept="whole")
                kept = work.commit()
                kept.finalize()
            with cache.remote(reference) as remote:
                with pytest.raises(NoSpace, match="space"):
                    remote.pull()
                with pytest.raises(NoSpace, match="space"):
                    remote.extract(small / "out")
            with pytest.raises(NoSpace, match="space"):
                cache.import_tree(tmp_path / "tree")
            assert not (small / "out").exists()
            assert counts(cache) == (1, 0)
            assert snapshots_on_disk(cache) == 1
            assert os.listdir(cache.root / "ingest") == []
            assert read(kept, "kept") == "whole"
            kept.release()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
