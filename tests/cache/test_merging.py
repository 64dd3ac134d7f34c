"""Merge and diff: laws over random trees on every driver, and what they cost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.caches import DRIVERS, OpenCache, counts, read, snapshots_on_disk, write
from support.random_trees import TREES, Node, make
from support.trees import Seen, describe

from shipway import Cache, LocalImmutableRef, NotFound, RemoteImmutableRef
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

LAWS = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def local(ref: LocalImmutableRef | RemoteImmutableRef | None) -> LocalImmutableRef:
    assert isinstance(ref, LocalImmutableRef)
    return ref


def shown(ref: LocalImmutableRef | RemoteImmutableRef | None) -> dict[str, Seen]:
    with local(ref).mounted() as path:
        return describe(path)


@contextmanager
def stores(driver: str) -> Iterator[tuple[Cache, Path]]:
    """Yield a new store and a directory to make trees in."""
    with tempfile.TemporaryDirectory() as name, Cache.open(Path(name) / "store", driver=driver) as cache:
        yield cache, Path(name) / "tree"


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@LAWS
@given(one=TREES, other=TREES)
def test_what_differs_laid_over_the_lower_gives_the_upper(driver: str, one: Node, other: Node) -> None:
    with stores(driver) as (cache, path):
        lower = cache.import_tree(make(path, one))
        upper = cache.import_tree(make(path, other))
        expected = describe(path)
        assert shown(cache.merge([lower, local(cache.diff(lower, upper))])) == expected


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@LAWS
@given(one=TREES, other=TREES)
def test_what_differs_from_an_ancestor_gives_the_upper_again(driver: str, one: Node, other: Node) -> None:
    with stores(driver) as (cache, path):
        lower = cache.import_tree(make(path, one))
        upper = cache.import_tree(make(path, other), lower)
        expected = describe(path)
        assert shown(cache.merge([lower, local(cache.diff(lower, upper))])) == expected
        base = cache.import_tree(make(path, Node("dir", mode=0o755)))
        assert shown(cache.merge([base, local(cache.diff(base, upper))])) == expected


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@LAWS
@given(one=TREES, two=TREES, three=TREES)
def test_merging_is_associative(driver: str, one: Node, two: Node, three: Node) -> None:
    with stores(driver) as (cache, path):
        a, b, c = (cache.import_tree(make(path, tree)) for tree in (one, two, three))
        left = cache.merge([local(cache.merge([a, b])), c])
        right = cache.merge([a, local(cache.merge([b, c]))])
        assert shown(left) == shown(right) == shown(cache.merge([a, b, c]))


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@LAWS
@given(tree=TREES, other=TREES)
def test_nothing_differs_between_a_tree_and_itself(driver: str, tree: Node, other: Node) -> None:
    with stores(driver) as (cache, path):
        one = cache.import_tree(make(path, tree))
        expected = describe(path)
        nothing = local(cache.diff(one, one))
        assert set(shown(nothing)) == {""}
        assert shown(cache.merge([one, nothing])) == expected
        again = cache.import_tree(make(path, other))
        expected = describe(path)
        assert shown(cache.merge([again, nothing])) == expected


@pytest.mark.root
@pytest.mark.slow
@LAWS
@given(one=TREES, other=TREES, changed=TREES)
def test_both_drivers_merge_to_the_same(one: Node, other: Node, changed: Node) -> None:
    seen = []
    for driver in ("overlay", "native"):
        with stores(driver) as (cache, path):
            a = cache.import_tree(make(path, one))
            b = cache.import_tree(make(path, other))
            c = cache.import_tree(make(path, changed), b)
            seen.append([shown(cache.merge([a, c])), shown(cache.merge([a, local(cache.diff(b, c))]))])
    assert seen[0] == seen[1]


def committed(cache: Cache, parent: LocalImmutableRef | None = None, **files: str) -> LocalImmutableRef:
    with cache.new(parent) as work:
        write(work, **files)
        return work.commit()


def test_merging_nothing_gives_nothing_and_one_gives_itself(cache: Cache) -> None:
    assert cache.merge([]) is None
    assert cache.diff(None, None) is None
    with committed(cache, a="1") as one:
        for same in (cache.merge([one]), cache.diff(None, one)):
            assert local(same).id == one.id
            local(same).release()
        assert counts(cache) == (1, 0)


def test_merges_of_merges_are_flat(cache: Cache) -> None:
    refs = [committed(cache, None, **{name: name}) for name in "abcdef"]
    nested = cache.merge([local(cache.merge(refs[:3])), local(cache.merge(refs[3:]))])
    record = next(row for row in cache.disk_usage() if row.id == local(nested).id)
    assert record.parents == tuple(ref.id for ref in refs)
    assert set(shown(nested)) == {"", *"abcdef"}


def test_later_inputs_win_and_deletions_apply_to_earlier_ones(cache: Cache) -> None:
    base = committed(cache, x="base", y="base")
    with cache.new(base) as work:
        with work.mounted() as path:
            (path / "y").unlink()
        deletion = local(cache.diff(base, work.commit()))
    other = committed(cache, x="other", y="other")
    merged = local(cache.merge([other, deletion]))
    assert read(merged, "x") == "other"
    assert "y" not in shown(merged)


def made(cache: Cache, *paths: str, base: LocalImmutableRef | None = None) -> LocalImmutableRef:
    """Commit files that hold their own path; one that ends in a slash is a directory."""
    with cache.new(base) as work:
        with work.mounted() as root:
            for path in paths:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                if path.endswith("/"):
                    (root / path).mkdir(exist_ok=True)
                else:
                    (root / path).write_text(path)
        return work.commit()


def test_directories_merge_with_the_later_metadata_and_anything_else_replaces(cache: Cache) -> None:
    lower = made(cache, "both/one", "kind/under")
    with cache.new() as work:
        with work.mounted() as root:
            (root / "both").mkdir(mode=0o700)
            (root / "both/two").write_text("both/two")
            (root / "kind").write_text("a file")
        upper = work.commit()
    merged = shown(cache.merge([lower, upper]))
    assert set(merged) == {"", "both", "both/one", "both/two", "kind"}
    assert merged["both"].mode & 0o777 == 0o700
    back = shown(cache.merge([upper, lower]))
    assert set(back) == {"", "both", "both/one", "both/two", "kind", "kind/under"}
    assert back["both"] == shown(lower)["both"]


@pytest.mark.parametrize("change", ["content", "mode", "mtime", "xattr", "nothing"])
def test_what_differs_is_content_or_metadata_but_no_reading_and_no_change_time(cache: Cache, change: str) -> None:
    lower = made(cache, "file", "other")
    with cache.new(lower) as work:
        with work.mounted() as root:
            file, before = root / "file", (root / "file").stat()
            if change == "content":
                file.write_text("FILE")
            if change == "mode":
                file.chmod(0o600)
            if change == "xattr":
                try:
                    os.setxattr(file, "user.note", b"1")
                except OSError as error:
                    pytest.skip(f"no user xattrs here: {error}")
            later = before.st_mtime_ns + (change == "mtime")
            os.utime(file, ns=(before.st_atime_ns + 10**9, later))  # moves the change time too
        upper = work.commit()
    expected = {""} if change == "nothing" else {"", "file"}
    assert set(shown(cache.diff(lower, upper))) == expected


def test_a_merge_uses_no_second_copy_of_the_data(cache: Cache) -> None:
    refs = []
    for number in range(3):
        with cache.new() as work:
            with work.mounted() as path:
                (path / f"big{number}").write_bytes(os.urandom(2_000_000))
            refs.append(work.commit())
    merged = local(cache.merge(refs))
    with merged.mounted() as path:
        assert len(list(path.iterdir())) == 3
    blocks: dict[int, int] = {}
    for base, _, names in os.walk(cache.root / "snapshots"):
        for name in names:
            st = os.lstat(os.path.join(base, name))
            blocks[st.st_ino] = st.st_blocks * 512
    assert sum(blocks.values()) < 6_300_000


def test_a_merge_touches_no_file_until_somebody_looks(cache: Cache) -> None:
    one, two = committed(cache, a="1"), committed(cache, b="2")
    before = snapshots_on_disk(cache)
    merged, difference = local(cache.merge([one, two])), local(cache.diff(one, two))
    assert snapshots_on_disk(cache) == before
    assert {name for name in shown(difference) if name} == {"b"}
    assert {name for name in shown(merged) if name} == {"a", "b"}


def test_merge_and_diff_hold_their_inputs(cache: Cache) -> None:
    one, two = committed(cache, a="1"), committed(cache, b="2")
    combined = [local(cache.merge([one, two])), local(cache.diff(one, two))]
    one.release()
    two.release()
    assert counts(cache) == (4, 0)
    assert list(cache.prune()) == []
    combined[0].release()
    assert len(list(cache.prune())) == 1
    combined[1].release()
    assert len(list(cache.prune())) == 3
    assert snapshots_on_disk(cache) == 0


def test_a_merge_is_committed_over_like_any_other_ref(open_cache: OpenCache) -> None:
    cache = open_cache()
    merged = local(cache.merge([committed(cache, a="1"), committed(cache, b="2")]))
    child = committed(cache, merged, c="3")
    again = local(cache.merge([child, committed(cache, a="4")]))
    ids = child.id, again.id
    cache.close()
    cache = open_cache()
    with cache.get(ids[0]) as child, cache.get(ids[1]) as again:
        assert [read(child, name) for name in "abc"] == ["1", "2", "3"]
        assert [read(again, name) for name in "abc"] == ["4", "2", "3"]


def test_the_outlines_of_a_family_say_what_its_records_say(cache: Cache) -> None:
    records = cache.store.records
    base = committed(cache, a="1", b="2")
    with cache.new(base) as work:
        write(work, a="3")
        over = work.commit()
    merged = local(cache.merge([committed(cache, b="4"), local(cache.diff(base, over)), base]))
    both = local(cache.merge([merged, local(cache.diff(committed(cache, c="5"), merged))]))
    shown(both)
    for record in records.all():
        family, outlines = records.family(record), records.outlines(record)
        said = {one.id: (one.kind, one.snapshot, one.exact, one.parents) for one in outlines.values()}
        assert said == {one.id: (one.kind, one.snapshot, one.exact, one.parents) for one in family.values()}
        for found in (family, outlines):
            with pytest.raises(NotFound, match="no such ref"):
                found["none"]
    assert any(one.exact for one in records.outlines(records.get(both.id)).values())


def test_what_stands_over_others_than_it_was_made_over_is_moved(cache: Cache) -> None:
    base = committed(cache, a="1", b="2")
    with cache.new(base) as work:
        write(work, a="3")
        over = work.commit()
    alone = local(cache.diff(base, over))
    merged = local(cache.merge([committed(cache, c="4"), alone]))
    stacks = [cache.store.stack(cache.store.records.get(ref.id)) for ref in (base, over, alone, merged)]
    top = stacks[3][0][-1]
    assert [moved for _, moved in stacks] == [set(), set(), {top}, {top}]


def test_a_diff_without_an_upper_deletes_everything(cache: Cache) -> None:
    base = committed(cache, x="1", y="2")
    merged = local(cache.merge([base, local(cache.diff(base, None)), committed(cache, z="3")]))
    assert set(shown(merged)) == {"", "z"}


def test_pushing_a_merge_packs_nothing_again(open_cache: OpenCache) -> None:
    cache, other = open_cache(), open_cache("other")
    one, two = committed(cache, a="1" * 5000), committed(cache, b="2" * 5000)
    with serving(StoreBackend(other)) as url:
        reference = "oci://" + url.removeprefix("http://") + "/merged"
        one.push(f"{reference}:one")
        two.push(f"{reference}:two")
        blobs = sorted(os.listdir(cache.root / "blobs/sha256"))
        pushed = local(cache.merge([one, two])).push(f"{reference}:both")
        assert (pushed.layers, pushed.layers_moved) == (2, 0)
        assert set(blobs) <= set(os.listdir(cache.root / "blobs/sha256"))
        with cache.remote(f"{reference}:both") as remote:
            assert remote.size() == sum(cache.remote(f"{reference}:{tag}").size() for tag in ("one", "two"))


def test_merging_remote_refs_pulls_nothing_and_pushing_it_moves_manifests_only(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    theirs, mine = open_cache("theirs"), open_cache("mine")
    for name in ("one", "two"):
        with theirs.new() as work:
            with work.mounted() as path:
                (path / name).write_bytes(os.urandom(200_000))
                (path / "both").write_text(name)
            theirs.put(name, work.commit())
    with serving(StoreBackend(theirs)) as url:
        place = "oci://" + url.removeprefix("http://")
        with Cache.open(mine.root, remotes=[place]) as cache:
            one, two = cache.lookup("one"), cache.lookup("two")
            assert isinstance(one, RemoteImmutableRef)
            assert isinstance(two, RemoteImmutableRef)
            merged = cache.merge([one, two])
            assert isinstance(merged, RemoteImmutableRef)
            one.release()
            two.release()
            pushed = cache.push(merged, f"{place}/elsewhere:merged")
            assert pushed.traffic.sent < 20_000
            assert merged.traffic.received < 20_000
            merged.extract(tmp_path / "out", "both")
            assert (tmp_path / "out/both").read_text() == "two"
            with merged.pull() as pulled, cache.remote(f"{place}/elsewhere:merged") as again:
                assert set(shown(pulled)) == {"", "one", "two", "both"}
                again.extract(tmp_path / "again")
                assert describe(tmp_path / "again") == shown(pulled)
            merged.release()


def test_a_remote_diff_of_an_ancestor_is_the_layers_between(open_cache: OpenCache, tmp_path: Path) -> None:
    theirs, mine = open_cache("theirs"), open_cache("mine")
    base = committed(theirs, a="1")
    theirs.put("base", base)
    theirs.put("top", committed(theirs, base, b="2"))
    with (
        serving(StoreBackend(theirs)) as url,
        Cache.open(mine.root, remotes=["oci://" + url.removeprefix("http://")]) as cache,
    ):
        lower, upper = cache.lookup("base"), cache.lookup("top")
        difference = cache.diff(lower, upper)
        assert isinstance(difference, RemoteImmutableRef)
        difference.extract(tmp_path / "out")
        assert os.listdir(tmp_path / "out") == ["b"]
        unrelated = cache.diff(upper, lower)
        assert isinstance(unrelated, LocalImmutableRef)
        assert set(shown(unrelated)) == {""}
        for ref in (lower, upper, difference, unrelated):
            assert ref is not None
            ref.release()


def test_what_a_mount_copied_up_but_did_not_change_is_no_part_of_a_difference(cache: Cache) -> None:
    base = committed(cache, same="same", other="other")
    with cache.new(base) as work:
        with work.mounted() as path:
            st = os.stat(path / "same")
            (path / "same").write_text("same")
            os.utime(path / "same", ns=(st.st_mtime_ns, st.st_mtime_ns))
            (path / "other").write_text("changed")
        difference = local(cache.diff(base, work.commit()))
    elsewhere = committed(cache, same="kept")
    assert read(local(cache.merge([elsewhere, difference])), "same") == "kept"
    assert read(local(cache.merge([elsewhere, difference])), "other") == "changed"


def test_a_broken_input_takes_the_merge_with_it_at_load(open_cache: OpenCache) -> None:
    cache = open_cache()
    one, two = committed(cache, a="1"), committed(cache, b="2")
    merged = local(cache.merge([one, two]))
    snapshot = cache.store.records.get(two.id).snapshot
    assert snapshot is not None
    ids = one.id, merged.id
    cache.close()
    shutil.rmtree(cache.root / "snapshots" / snapshot)
    cache = open_cache()
    with cache.get(ids[0]), pytest.raises(NotFound):
        cache.get(ids[1])
