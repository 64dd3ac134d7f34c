"""Every corruption that is planted is found, named, and repaired where it can be."""

from __future__ import annotations

import gzip
import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from support.caches import OpenCache, read, write
from support.program import Program
from support.trees import make_varied_tree

from shipway import Cache, CachePolicy, LocalImmutableRef, NotFound, Unavailable
from shipway.local.verify_layers import packed_diff_id
from shipway.oci import LAYER_GZIP, sha256
from shipway.transfer.pull import pull
from shipway.transfer.push import ensure_layers


class Chain:
    """A base with a blob, and a child with one, both released."""

    def __init__(self, cache: Cache, *, packed: bool = True) -> None:
        with cache.new(policy=CachePolicy.RETAIN) as work:
            write(work, one="first", two="second")
            base = work.commit()
        with base, cache.new(base, policy=CachePolicy.RETAIN) as work:
            write(work, two="changed", three="third")
            child = work.commit()
        with child:
            child.finalize()
            cache.put("key", child)
            self.base, self.child = base.id, child.id
            if packed:
                ensure_layers(cache.store, cache.store.records.get(child.id))
        self.cache = cache

    def snapshot(self, ref_id: str) -> Path:
        key = self.cache.store.records.get(ref_id).snapshot
        assert key is not None
        return self.cache.root / "snapshots" / key

    def blob(self, ref_id: str) -> Path:
        record = self.cache.store.records.get(ref_id)
        (descriptor,) = self.cache.store.layer_blobs(record)
        return self.cache.store.blobs.path(descriptor.digest)

    def is_intact(self) -> bool:
        with self.cache.get(self.child) as ref:
            return (read(ref, "one"), read(ref, "two"), read(ref, "three")) == ("first", "changed", "third")


def flip(path: Path, at: int = -1) -> None:
    """Change one byte in place, and leave no trace in the times."""
    st = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x01
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def execute(cache: Cache, *statements: str) -> None:
    with cache.store.database.write() as db:
        for statement in statements:
            db.execute(statement)


def test_a_sound_store_has_no_findings(cache: Cache, tmp_path: Path) -> None:
    chain = Chain(cache)
    with cache.import_tree(make_varied_tree(tmp_path / "tree")) as ref, cache.get(chain.child) as child:
        ensure_layers(cache.store, cache.store.records.get(ref.id))
        merged = cache.merge([ref, child])
        difference = cache.diff(ref, child)
        assert isinstance(merged, LocalImmutableRef)
        assert isinstance(difference, LocalImmutableRef)
        with merged, difference, merged.mounted(), difference.mounted(), cache.new(merged) as work:
            write(work, more="x")
            assert cache.verify() == []
    assert cache.verify(repair=True) == []


def test_looking_is_no_use(cache: Cache) -> None:
    chain = Chain(cache)
    before = cache.store.records.get(chain.base)
    cache.verify()
    assert cache.store.records.get(chain.base) == before


BLOB_DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda path: flip(path, 20),
    "a truncated file": lambda path: os.truncate(path, 10),
    "a longer file": lambda path: os.truncate(path, path.stat().st_size + 1),
    "a missing file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", BLOB_DAMAGE.values(), ids=BLOB_DAMAGE)
def test_a_damaged_blob_is_dropped_and_packed_again(cache: Cache, damage: Callable[[Path], object]) -> None:
    chain = Chain(cache)
    blob = chain.blob(chain.child)
    damage(blob)
    (found,) = cache.verify()
    assert (found.kind, found.where, found.repaired) == ("blob", f"sha256:{blob.name}", "")
    (found,) = cache.verify(repair=True)
    assert found.repaired
    assert not blob.exists()
    assert cache.verify() == []
    with cache.get(chain.child):
        ensure_layers(cache.store, cache.store.records.get(chain.child))
    assert chain.blob(chain.child) == blob
    assert cache.verify() == []


SNAPSHOT_DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda path: flip(path / "fs/two"),
    "another mode": lambda path: (path / "fs/two").chmod(0o600),
    "a lost file": lambda path: (path / "fs/three").unlink(),
    "another file": lambda path: (path / "fs/four").write_text("x"),
    "no files at all": lambda path: os.rename(path / "fs", path / "gone"),
    "no snapshot": lambda path: os.rename(path, path.parents[1] / "away"),
}


@pytest.mark.parametrize("damage", SNAPSHOT_DAMAGE.values(), ids=SNAPSHOT_DAMAGE)
def test_a_damaged_snapshot_is_made_again_of_its_blob(cache: Cache, damage: Callable[[Path], object]) -> None:
    chain = Chain(cache)
    damage(chain.snapshot(chain.child))
    (found,) = cache.verify()
    assert (found.kind, found.where, found.repaired) == ("snapshot", chain.child, "")
    (found,) = cache.verify(repair=True)
    assert found.repaired == "it was made again of its layer's blob"
    assert chain.is_intact()
    assert cache.verify() == []


def test_what_stands_on_a_snapshot_that_was_made_again_is_as_it_was(cache: Cache) -> None:
    chain = Chain(cache)
    flip(chain.snapshot(chain.base) / "fs/one")
    assert [one.where for one in cache.verify(repair=True)] == [chain.base]
    assert chain.is_intact()
    assert cache.verify() == []


def test_a_damaged_snapshot_without_a_sound_blob_is_dropped_with_what_stands_on_it(cache: Cache) -> None:
    chain = Chain(cache)
    flip(chain.snapshot(chain.base) / "fs/one")
    flip(chain.blob(chain.base), 20)
    found = cache.verify(repair=True)
    assert [(one.kind, one.where) for one in found if one.kind != "blob"] == [
        ("snapshot", chain.base),
        ("record", chain.child),
    ]
    assert all(one.repaired for one in found)
    for gone in (chain.base, chain.child):
        with pytest.raises(NotFound):
            cache.get(gone)
    assert cache.lookup("key") is None
    assert cache.verify() == []
    assert os.listdir(cache.root / "snapshots") == []


def test_a_missing_snapshot_that_was_never_packed_is_dropped(cache: Cache) -> None:
    chain = Chain(cache, packed=False)
    os.rename(chain.snapshot(chain.base), cache.root / "away")
    found = cache.verify(repair=True)
    assert {one.where for one in found} == {chain.base, chain.child}
    assert cache.verify() == []


def test_what_is_in_use_is_not_taken_away(cache: Cache) -> None:
    chain = Chain(cache, packed=False)
    with cache.get(chain.child):
        os.rename(chain.snapshot(chain.base), cache.root / "away")
        (found,) = cache.verify(repair=True)
        assert "in use" in found.what
        assert not found.repaired
    assert all(one.repaired for one in cache.verify(repair=True))
    assert cache.verify() == []


def foreign_layer() -> bytes:
    """Return a layer as others write them: unsorted, with a directory it does not have, a name twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in [("usr/bin/tool", "tool"), ("etc/conf", "old"), ("a", "x"), ("etc/conf", "new")]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(text), 1_600_000_000
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def test_a_foreign_layer_is_compared_entry_by_entry(cache: Cache) -> None:
    store, data = cache.store, foreign_layer()
    diff_id = sha256(gzip.decompress(data))
    layer = msgspec.structs.replace(store.blobs.put(data, LAYER_GZIP), media_type=LAYER_GZIP)
    record = pull(store, "foreign", [layer], [diff_id], remote=None).record
    assert packed_diff_id(store, store.own_chain(record)) != diff_id
    store.records.release(record.id)
    assert cache.verify() == []
    assert record.snapshot is not None
    flip(cache.root / "snapshots" / record.snapshot / "fs/etc/conf")
    (found,) = cache.verify()
    assert found.kind == "snapshot"
    (found,) = cache.verify(repair=True)
    assert found.repaired
    with cache.get(record.id) as ref:
        assert read(ref, "etc/conf") == "new"
    assert cache.verify() == []


ROWS = {
    "a parent that is gone": "INSERT INTO parents SELECT id, 7, 'nobody' FROM records WHERE NOT mutable",
    "a child that is gone": "INSERT INTO parents VALUES ('nobody', 0, 'nobody')",
    "a hold": "INSERT INTO holds SELECT 'nobody', instance, 1 FROM holds LIMIT 1",
    "a hold of the dead": "INSERT INTO holds SELECT id, 'i-1-dead', 1 FROM records",
    "a snapshot the dead were making": "INSERT INTO pending VALUES ('zzz', 'i-1-dead')",
    "a tag": "INSERT INTO tags VALUES ('shipway', 'x', 'nobody', NULL, NULL, 1)",
    "a tag of nothing": "INSERT INTO tags VALUES ('shipway', 'x', NULL, NULL, NULL, 1)",
    "a tag of a manifest": "INSERT INTO tags VALUES ('shipway', 'x', NULL, 'sha256:x', NULL, 1)",
    "a manifest": "INSERT INTO manifests VALUES ('sha256:x', 'x', x'00', NULL, NULL, 1)",
    "a manifest's blobs": "INSERT INTO manifest_blobs VALUES ('sha256:x', 'sha256:y')",
    "a mount": "INSERT INTO mounts VALUES ('/nowhere', 'nobody')",
    "a mount that is not there": "INSERT INTO mounts SELECT '/nowhere', id FROM records LIMIT 1",
    "a cache mount": "INSERT INTO cache_mounts VALUES ('nobody', 'name', 1)",
    "a twin": "UPDATE records SET twin = 'nobody'",
    "a twin that is none": "UPDATE records SET twin = (SELECT max(id) FROM records)",
}


@pytest.mark.parametrize("statement", ROWS.values(), ids=ROWS)
def test_a_dangling_row_is_found_and_repaired(cache: Cache, statement: str) -> None:
    Chain(cache)
    with cache.new():
        execute(cache, statement)
    assert cache.verify()
    assert any(one.kind in ("row", "lease") for one in cache.verify())
    assert all(one.repaired for one in cache.verify(repair=True))
    assert cache.verify() == []


LEFTOVERS = {
    "an orphan snapshot": "snapshots/zzz9",
    "a directory that is no snapshot": "snapshots/Not-A-Key",
    "a directory among the blobs": "blobs/sha256/what",
    "a name that is no text": "blobs/sha256/\udcff\udcfe",
    "a name that is no text among the snapshots": "snapshots/\udcff",
    "something unfinished": "ingest/blob-1",
    "what a dead process had mounted": "mounts/0123456789ab",
    "a lock that died with its holder": "locks/l-pack-x",
    "a dead instance": "locks/i-1-dead",
}


@pytest.mark.parametrize("where", LEFTOVERS.values(), ids=LEFTOVERS)
def test_leftovers_are_found_and_removed(open_cache: OpenCache, where: str) -> None:
    cache = open_cache()
    Chain(cache)
    cache.close()
    with Cache.open(cache.root, repair=False) as cache:
        path = cache.root / where
        if where.startswith("locks"):
            path.write_text("")
        else:
            path.mkdir()
            (path / ("lock" if where.startswith("mounts") else "file")).write_text("x")
        assert [one.where for one in cache.verify()] == [where]
        (found,) = cache.verify(repair=True)
        assert found.repaired
        assert not path.exists()
        assert cache.verify() == []


@pytest.mark.root
def test_a_file_where_there_is_to_be_none_would_show_in_trees(tmp_path: Path) -> None:
    with Cache.open(tmp_path / "store", driver="overlay") as cache:
        (cache.root / "empty").mkdir(exist_ok=True)
        (cache.root / "empty/file").write_text("x")
        (found,) = cache.verify(repair=True)
        assert (found.where, found.repaired) == ("empty/file", "it was removed")
        assert cache.verify() == []


HOLDER = """
import os, sys, time
from shipway import Cache
cache = Cache.open(sys.argv[1])
work = cache.new()
with work.mounted(), cache.store.leases.locked("something"), cache.store.blobs.ingest():
    cache.store.records.reserve_snapshot()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_living_are_left_alone_and_the_dead_are_cleared_away(open_cache: OpenCache) -> None:
    cache = open_cache()
    Chain(cache)
    args = [sys.executable, "-c", HOLDER, str(cache.root)]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert cache.verify(repair=True) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = cache.verify()
    assert {one.kind for one in found} >= {"lease"}
    assert all(one.repaired for one in cache.verify(repair=True))
    assert cache.verify() == []


def test_the_program_exits_with_5_until_all_is_repaired(program: Program, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    program("commit", tmp_path / "tree")
    assert program("verify") == "nothing is wrong\n"
    (program.root / "snapshots/zzz").mkdir()
    assert "not repaired" in program("verify", code=5)
    assert program.json("verify", "--repair")["repaired"] == 1
    assert program.json("verify") == {"findings": [], "repaired": 0, "left": 0}


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Leave this process so many descriptors to open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free numbers are handed out, so what counts are the free ones below the limit.
    used, limit, free = set(map(int, os.listdir("/proc/self/fd"))), 0, 0
    while free < spare:
        free += limit not in used
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_lack_of_descriptors_is_not_taken_for_damage(cache: Cache) -> None:
    chain = Chain(cache)
    flip(chain.blob(chain.child), 20)  # so that the snapshot has no sound blob, and would be dropped
    refused = 0
    for spare in range(1, 16):
        with few_descriptors(spare):
            try:
                cache.verify(repair=True)
            except Unavailable:
                refused += 1
    assert refused
    assert cache.verify(repair=True) == []
    assert chain.is_intact()


def test_records_that_stand_on_each_other_are_named_and_the_others_are_looked_at(cache: Cache) -> None:
    chain = Chain(cache)
    flip(chain.snapshot(chain.base) / "fs/one")
    names = [f"{letter}{chain.base[1:]}" for letter in "wxyz"]
    with cache.store.database.write() as db:
        for name in names:
            db.execute(
                "INSERT INTO records SELECT ?, 'merge', 0, NULL, NULL, NULL, NULL, NULL, policy, record_type,"
                " description, labels, created, last_used, usage_count FROM records WHERE id = ?",
                (name, chain.base),
            )
        for record, position, parent in [(0, 0, 1), (1, 0, 2), (2, 0, 1), (3, 0, 0)]:
            db.execute("INSERT INTO parents VALUES (?, ?, ?)", (names[record], position, names[parent]))
        db.execute("INSERT INTO parents VALUES (?, 1, ?)", (names[1], chain.base))
    snapshot, row = cache.verify()
    assert (snapshot.kind, snapshot.where) == ("snapshot", chain.base)
    circle = row.what.removeprefix("records stand on each other: ").split(", ")
    assert (row.where, sorted(circle)) == ("parents", names[1:3])
