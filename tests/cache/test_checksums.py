"""Content checksums of refs: the same wherever a tree is and however it was made, and no file is read twice."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.caches import DRIVERS, OpenCache, write
from support.checksums import NOTHING, plain_checksum
from support.contents import blob, opening, random_bytes
from support.images import FileRemote, put_layers
from support.opens import opened
from support.random_trees import TREES, Node, make
from support.trees import make_varied_tree

from shipway import (
    Cache,
    CachePolicy,
    Corrupt,
    Invalid,
    LocalImmutableRef,
    NotFound,
    RemoteImmutableRef,
)
from shipway.layers.compression import Compression
from shipway.local.checksums import LIMIT, PART, RemoteDigests
from shipway.server import serving
from shipway.server.store_backend import StoreBackend
from shipway.transfer.checksums import remote_checksums
from shipway.transfer.remote_tree import RemoteTree

LAWS = settings(max_examples=25, suppress_health_check=list(HealthCheck))
FEW_LAWS = settings(LAWS, max_examples=12)


@contextmanager
def served(cache: Cache) -> Iterator[str]:
    """Serve a store and yield its reference."""
    with serving(StoreBackend(cache)) as url:
        yield "oci://" + url.removeprefix("http://") + "/shipway"


@contextmanager
def stores(driver: str) -> Iterator[tuple[Cache, Path]]:
    """Yield a new store and a directory to make trees in."""
    with tempfile.TemporaryDirectory() as name, Cache.open(Path(name) / "store", driver=driver) as cache:
        yield cache, Path(name) / "tree"


def local(ref: LocalImmutableRef | RemoteImmutableRef | None) -> LocalImmutableRef:
    assert isinstance(ref, LocalImmutableRef)
    return ref


def rows(cache: Cache) -> int:
    return int(
        cache.store.database.read(
            "SELECT count(DISTINCT layer) FROM (SELECT layer FROM checksums UNION SELECT record FROM changes)"
        )[0][0]
    )


def make_files(root: Path, count: int, size: int = 1000) -> Path:
    for number in range(count):
        (root / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"d{number % 3}/file{number}").write_bytes(random_bytes(size, number))
    return root


# Equal trees, equal checksums


def test_a_tree_with_everything_in_it_has_the_checksum_that_its_description_says(cache: Cache, tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    with cache.import_tree(tree) as ref:
        assert ref.checksum() == plain_checksum(tree)
        for path in ("bin", "bin/tool", "bin/absolute", "sparse", "empty", "deep"):
            assert ref.checksum(path) == plain_checksum((tree / path) if path != "bin/absolute" else tree / "bin/tool")
        assert ref.checksum("bin/absolute", follow=False) == plain_checksum(tree / "bin/absolute")


def test_a_remote_ref_has_the_checksums_of_the_local_one(open_cache: OpenCache, tmp_path: Path) -> None:
    cache, other = open_cache("one"), open_cache("other")
    tree = make_varied_tree(tmp_path / "tree")
    with cache.import_tree(tree) as ref, served(cache) as repository, other.remote(f"{repository}:{ref.id}") as remote:
        for pattern in ("/bin/*", "/*i*/to*"):
            assert remote.checksum(pattern, wildcard=True, follow=False) == ref.checksum(
                pattern, wildcard=True, follow=False
            )
        for path in ("/bin/tool", "/bin/absolute", "/bin", "/"):
            assert remote.checksum(path) == ref.checksum(path)
        some, others = ["**/*o*"], ["deep", "bin/da*"]
        assert remote.checksum("", include=some, exclude=others) == ref.checksum("", include=some, exclude=others)
        with pytest.raises(NotFound):
            remote.checksum("/bin/dangling")
        with remote.pull() as pulled:
            assert pulled.checksum() == ref.checksum()


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_a_remote_ref_of_plain_layers_has_the_checksums_of_the_local_one(
    cache: Cache, tmp_path: Path, compression: Compression
) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    remote = FileRemote(tmp_path / "remote")
    layers = put_layers(remote, [tree], [compression])
    kept = RemoteDigests(cache.store.database)
    for _ in range(2):  # the second one has an index, and the digests that were worked out beside it
        assert remote_checksums(RemoteTree(remote, layers, store=cache.store), kept).checksum() == plain_checksum(tree)
        assert remote.traffic.received == layers[0].size
        assert rows(cache) == 1


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@LAWS
@given(one=TREES, other=TREES)
def test_layers_merges_and_imports_of_equal_trees_have_equal_checksums(driver: str, one: Node, other: Node) -> None:
    with stores(driver) as (cache, path):
        lower = cache.import_tree(make(path, one))
        assert lower.checksum() == plain_checksum(path)
        expected = plain_checksum(make(path, other))
        upper = cache.import_tree(path, lower)
        difference = local(cache.diff(lower, cache.import_tree(path)))
        laid_over = local(cache.merge([lower, difference]))
        again = local(cache.merge([lower, local(cache.diff(lower, upper))]))
        assert {ref.checksum() for ref in (upper, laid_over, again)} == {expected}
        with difference.mounted() as shown:
            for name in os.listdir(shown):
                assert difference.checksum(name, follow=False) == plain_checksum(shown / name)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@FEW_LAWS
@given(one=TREES, other=TREES)
def test_a_merge_has_the_checksum_of_what_it_shows(driver: str, one: Node, other: Node) -> None:
    with stores(driver) as (cache, path):
        inputs = [cache.import_tree(make(path, tree)) for tree in (one, other)]
        merged = local(cache.merge(inputs))
        with merged.mounted() as shown:
            assert merged.checksum() == plain_checksum(shown)


@pytest.mark.parametrize("driver", DRIVERS)
@FEW_LAWS
@given(tree=TREES, change=st.sampled_from(["mtime", "content", "mode", "xattr", "name", "kind"]))
def test_times_do_not_count_and_all_else_does(driver: str, tree: Node, change: str) -> None:
    with stores(driver) as (cache, path):
        make(path, tree)
        file = path / "the file"
        file.write_bytes(b"content")
        before = cache.import_tree(path).checksum()
        if change == "mtime":
            os.utime(file, (1, 1))
            os.utime(path, (2, 2))
        elif change == "content":
            file.write_bytes(b"CONTENT")
        elif change == "mode":
            file.chmod(0o640)
        elif change == "xattr":
            os.setxattr(file, "user.new", b"")
        elif change == "name":
            file.rename(path / "the other file")
        else:
            file.unlink()
            file.symlink_to("content")
        after = cache.import_tree(path).checksum()
        assert (after == before) is (change == "mtime")


@pytest.mark.root
def test_owners_count(cache: Cache, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 3)
    sums = set()
    for owner, group in ((0, 0), (1, 0), (0, 1)):
        os.chown(tree / "d0/file0", owner, group)
        sums.add(cache.import_tree(tree).checksum())
    assert len(sums) == 3


def test_hard_links_have_the_digest_of_what_they_link_to(cache: Cache, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one").write_bytes(b"linked")
    os.link(tree / "one", tree / "two")
    with cache.import_tree(tree) as ref:
        assert ref.checksum("one") == ref.checksum("two")
        whole = ref.checksum()
        (tree / "two").unlink()
        (tree / "two").write_bytes(b"linked")
        with cache.import_tree(tree, ref) as apart:
            assert apart.checksum() == whole
        (tree / "one").unlink()
        with cache.import_tree(tree, ref) as less:
            assert less.checksum("two") == ref.checksum("one")


def test_a_link_to_a_file_that_a_layer_has_twice_has_the_checksum_of_the_first(cache: Cache, tmp_path: Path) -> None:
    remote = FileRemote(tmp_path / "remote")
    found = []
    members = (("a", b"one"), ("b", b""), ("a", b"three"))
    for count in (2, 3):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in members[:count]:
                member = tarfile.TarInfo(name)
                if data:
                    member.size = len(data)
                else:
                    member.type, member.linkname = tarfile.LNKTYPE, "a"
                archive.addfile(member, io.BytesIO(data))
        layer = blob(out.getvalue())
        remote.put_blob(layer, opening(out.getvalue()))
        checksums = remote_checksums(RemoteTree(remote, [layer]), RemoteDigests(cache.store.database))
        found.append((checksums.checksum("b"), checksums.checksum("a")))
    once, twice = found
    assert twice[0] == once[0]
    assert twice[1] != once[1]


# Kept per ref, lazily


def test_a_second_call_reads_no_file_again_in_any_process(open_cache: OpenCache, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 12)
    cache = open_cache()
    ref = cache.import_tree(tree)
    with opened("file") as names:
        whole = ref.checksum()
    assert sorted(names) == sorted(f"file{number}" for number in range(12))
    with opened("file") as names:
        assert ref.checksum() == whole
        assert ref.checksum("/d1/*", wildcard=True) != NOTHING
        with cache.get(ref.id) as again:
            assert again.checksum() == whole
    assert not names
    ref.finalize()
    ref_id = ref.id
    cache.close()
    with open_cache() as reopened, opened("file") as names, reopened.get(ref_id) as again:
        assert again.checksum() == whole
    assert not names


def test_what_was_asked_once_is_answered_in_another_process_without_looking_at_the_tree(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    cache = open_cache()
    ref = cache.import_tree(make_files(tmp_path / "tree", 3))
    ref.finalize()
    asked: list[dict[str, Any]] = [{}, {"path": "/d1"}, {"include": ["**/file1"]}, {"path": "/d*", "wildcard": True}]
    answers = [ref.checksum(**one) for one in asked]
    cache.close()
    with open_cache() as reopened, reopened.get(ref.id) as again:
        with reopened.store.database.write() as db:
            db.execute("DELETE FROM changes")  # all there is but the answers
        assert [again.checksum(**one) for one in asked] == answers
        assert rows(reopened) == 0
        with pytest.raises(Invalid):
            again.checksum(include="**/file1")
        again.release()
        list(reopened.prune(ids=[ref.id]))
        assert reopened.store.database.read("SELECT count(*) FROM answers") == [(0,)]


def test_only_the_files_that_are_asked_about_are_read(cache: Cache, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 12)
    with cache.import_tree(tree) as ref:
        with opened("file") as names:
            ref.checksum("/d1/file4")
            ref.checksum("/d1/file4")
            ref.checksum("/", include=["**/file[45]"])
        assert names == ["file4", "file5"]
        with opened("file") as names:
            ref.checksum("/d1")
        assert sorted(names) == ["file1", "file10", "file7"]


def test_a_child_reads_only_files_of_its_own_layer(cache: Cache, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 12)
    with cache.import_tree(tree) as parent:
        parent.checksum()
        (tree / "d0/file3").write_bytes(b"changed")
        (tree / "d1/file4").unlink()
        (tree / "file-new").write_bytes(b"new")
        (tree / "d2/file2").chmod(0o600)
        with cache.import_tree(tree, parent) as child:
            store = cache.store
            with opened("file") as compared:  # where change times prove nothing the native driver reads to tell
                store.driver.changes(store.own_chain(store.records.get(child.id)))
            with opened("file") as names:
                whole = child.checksum()
            assert sorted((Counter(names) - Counter(compared)).elements()) == ["file-new", "file2", "file3"]
            assert whole == plain_checksum(tree)


def test_a_merge_of_known_layers_reads_no_file(cache: Cache, tmp_path: Path) -> None:
    one = cache.import_tree(make_files(tmp_path / "one", 6))
    two = cache.import_tree(make_files(tmp_path / "two", 9, size=10))
    sums = {one.checksum(), two.checksum()}
    with local(cache.merge([one, two])) as merged, opened("file") as names:
        assert merged.checksum() == two.checksum()
        assert local(cache.merge([two, one])).checksum() not in sums
    assert not names


def test_a_commit_that_is_taken_up_again_has_a_new_checksum(cache: Cache) -> None:
    work = cache.new(policy=CachePolicy.RETAIN)
    write(work, file="one")
    with work.commit() as first:
        before = first.checksum("file")
    again = cache.get_mutable(work.id)
    write(again, file="two")
    with again.commit() as second:
        assert second.checksum("file") != before
        assert rows(cache) == 1


def test_what_is_kept_goes_with_the_record(cache: Cache, tmp_path: Path) -> None:
    with cache.import_tree(make_files(tmp_path / "tree", 3)) as ref:
        ref.checksum()
        assert rows(cache) == 1
    list(cache.prune())
    assert rows(cache) == 0


def test_kept_checksums_that_are_damaged_are_corrupt(cache: Cache, tmp_path: Path) -> None:
    with cache.import_tree(make_files(tmp_path / "tree", 3)) as ref:
        ref.checksum()
        with cache.store.database.write() as db:
            db.execute("UPDATE changes SET data = x'28b52ffd00'")
        with pytest.raises(Corrupt), cache.get(ref.id) as again:
            again.checksum("/d1")  # not asked before


# Remote refs


def test_a_remote_checksum_fetches_only_the_files_it_is_over_and_once(open_cache: OpenCache, tmp_path: Path) -> None:
    cache, other = open_cache("one"), open_cache("other")
    tree = make_files(tmp_path / "tree", 30, size=400_000)
    (tree / "links").mkdir()
    for number in range(50):
        (tree / f"links/l{number}").symlink_to("nowhere")
    with cache.import_tree(tree) as ref, served(cache) as repository:
        reference = f"{repository}:{ref.id}"
        with other.remote(reference) as remote:
            start = remote.traffic
            assert remote.checksum("/links") == ref.checksum("/links")
            table = remote.traffic - start
            assert table.requests == 1
            assert remote.checksum("/d0/file0") == ref.checksum("/d0/file0")
            file = remote.traffic - start - table
            assert file.requests == 1
            assert 400_000 < file.received < 500_000
            remote.checksum("/d0/*0", wildcard=True)
            before = remote.traffic
            remote.checksum("/d0/*0", wildcard=True)
            remote.checksum("/d0/file0")
            assert remote.traffic == before
        with other.remote(reference) as remote:
            start = remote.traffic
            assert remote.checksum("/d0/file0") == ref.checksum("/d0/file0")
            assert remote.traffic == start  # the table of contents is kept, and so are digests


def test_equal_contents_of_a_remote_ref_are_fetched_once(open_cache: OpenCache, tmp_path: Path) -> None:
    cache, other = open_cache("one"), open_cache("other")
    tree = make_files(tmp_path / "tree", 1, size=400_000)
    for number in range(5):
        (tree / f"copy{number}").write_bytes((tree / "d0/file0").read_bytes())
        (tree / f"copy{number}").chmod(0o600 + number)
    with cache.import_tree(tree) as ref, served(cache) as repository, other.remote(f"{repository}:{ref.id}") as remote:
        assert remote.checksum("/", exclude=["d0"]) == ref.checksum("/", exclude=["d0"])
        assert remote.traffic.received < 500_000


def test_what_is_kept_of_a_remote_layer_is_in_parts_of_which_some_may_go(cache: Cache) -> None:
    kept, table = RemoteDigests(cache.store.database), f"sha256:{7:064x}"
    digests = bytearray(random_bytes(11 * PART + 64, 1))
    kept.save(table, digests, range(12))
    assert kept.load(table) == digests
    digests[5 * PART : 5 * PART + 32] = bytes(range(32))
    kept.save(table, digests, [5])
    assert kept.load(table) == digests
    with cache.store.database.write() as db:
        db.execute("DELETE FROM checksums WHERE layer = ?", (f"{table}/2",))
    digests[2 * PART : 3 * PART] = bytes(PART)
    assert kept.load(table) == digests
    assert kept.load(f"sha256:{8:064x}") == b""


def test_what_is_kept_of_remote_layers_is_bounded(cache: Cache) -> None:
    kept = RemoteDigests(cache.store.database)
    digests = bytearray(random_bytes(32 * 2000, 1))
    for number in range(3):
        kept.save(f"sha256:{number:064x}", digests, [0])
    assert kept.load(f"sha256:{0:064x}") == digests
    with cache.store.database.write() as db:
        db.execute("UPDATE checksums SET data = zeroblob(?) WHERE layer = ?", (LIMIT, f"sha256:{1:064x}/0"))
    kept.save(f"sha256:{3:064x}", digests, [0])
    left = {row[0][-3] for row in cache.store.database.read("SELECT layer FROM checksums")}
    assert left == {"0", "2", "3"}
    assert kept.load(f"sha256:{1:064x}") == b""
