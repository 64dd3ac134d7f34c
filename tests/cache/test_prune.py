"""Disk usage and prune: what is reported, what goes, what stays, and why."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.caches import OpenCache, counts, snapshots_on_disk, write

from shipway import Cache, CachePolicy, Invalid, LocalImmutableRef, RecordType, RemoteImmutableRef, UsageRecord, Verdict
from shipway.local.filters import parse_filters
from shipway.local.keeping import PruneOptions, bytes_to_keep
from shipway.local.pruning import prune
from shipway.server.app import serving
from shipway.server.store_backend import StoreBackend

KIB = 1024
SECOND = 10**9
MIB = 1024 * KIB
"""Files are large where a limit is to be met: the database's log takes some hundred KiB, and changes."""


def ref(cache: Cache, parent: LocalImmutableRef | None = None, *, size: int = 0, description: str = "") -> str:
    """Make an unused finalized ref with a file of random bytes."""
    with cache.new(parent, policy=CachePolicy.RETAIN, description=description) as work:
        with work.mounted() as path:
            (path / f"file-{description}").write_bytes(os.urandom(size))
        with work.commit() as done:
            done.finalize()
            return done.id


def du(root: Path) -> int:
    return int(subprocess.run(["du", "-s", "-B1", root], capture_output=True, text=True, check=True).stdout.split()[0])


def accounted(cache: Cache) -> int:
    return sum(record.size for record in cache.disk_usage()) + cache.overhead()


# 1


def test_prune_removes_nothing_held_nor_a_parent_of_what_is_held(cache: Cache) -> None:
    parent = cache.get(ref(cache, size=KIB))
    child = cache.get(ref(cache, parent, size=KIB))
    child_id = child.id
    child.release()
    assert [one.id for one in cache.prune()] == [child_id]
    assert snapshots_on_disk(cache) == 1
    grandchild = cache.get(ref(cache, parent, size=KIB))
    parent.release()
    assert list(cache.prune()) == []
    grandchild.release()
    assert len(list(cache.prune())) == 2
    assert (counts(cache), snapshots_on_disk(cache)) == ((0, 0), 0)


# 2


def test_usage_says_all_there_is_to_say_of_a_record(cache: Cache) -> None:
    parent = cache.get(ref(cache, size=100 * KIB))
    before = datetime.now(UTC)
    with cache.new(parent, description="a line", record_type=RecordType.GIT_CHECKOUT) as work:
        first, second = cache.disk_usage()
        assert (first.id, first.mutable, first.in_use, first.usage_count) == (parent.id, False, True, 1)
        assert first.size >= 100 * KIB
        assert first.last_used is not None
        assert (second.id, second.parents, second.mutable, second.in_use) == (work.id, (parent.id,), True, True)
        assert (second.description, second.record_type) == ("a line", RecordType.GIT_CHECKOUT)
        assert before <= second.created <= datetime.now(UTC)
        assert (second.last_used, second.usage_count, second.shared) == (None, 0, False)
    assert {one.value for one in RecordType} == {
        "internal", "frontend", "source.local", "source.git.checkout", "exec.cachemount", "regular",
    }  # fmt: skip


# 3


@pytest.mark.parametrize(
    ("total", "free", "options", "kept"),
    [
        (1000, 9000, {"max_used": 2000}, 2000),
        (7000, 3000, {"min_free": 5000}, 5000),
        (7000, 3000, {"min_free": 5000, "reserved": 6000}, 6000),
        (7000, 3000, {"min_free": 5000, "reserved": 2000, "max_used": 4000}, 4000),
        (4000, 2000, {"min_free": 5000}, 1000),
        (4000, 2000, {"min_free": 5000, "reserved": 2000}, 2000),
        (4000, 2000, {"min_free": 5000, "reserved": 2000, "max_used": 4000}, 2000),
        (1000, 9000, {}, 0),
        (1000, 9000, {"min_free": 5000}, 1000),
    ],
)
def test_the_bytes_to_keep_follow_from_the_three_sizes(
    total: int, free: int, options: dict[str, int], kept: int
) -> None:
    assert bytes_to_keep(total, free, **options) == kept


amount = st.integers(0, 10_000)


@given(amount, amount, amount, amount, amount)
def test_the_laws_of_bytes_to_keep(total: int, free: int, reserved: int, max_used: int, min_free: int) -> None:
    kept = bytes_to_keep(total, free, reserved=reserved, max_used=max_used, min_free=min_free)
    assert kept >= reserved
    assert kept <= max(max_used, reserved)
    if kept > reserved:
        assert free + total - kept >= min(min_free, free) or total <= kept
        assert free + max(0, total - kept) >= min_free or total <= kept
    assert kept <= bytes_to_keep(total, free, reserved=reserved, max_used=max_used + 1, min_free=min_free)
    assert kept >= bytes_to_keep(total, free, reserved=reserved, max_used=max_used, min_free=min_free + 1)


def usage(**values: object) -> UsageRecord:
    known: dict[str, object] = {
        "id": "abc", "parents": (), "mutable": False, "in_use": False, "size": 0, "created": datetime.now(UTC),
        "last_used": None, "usage_count": 0, "description": "npm, of the web", "record_type": RecordType.REGULAR,
        "shared": False,
    }  # fmt: skip
    return UsageRecord(**(known | values))  # type: ignore[arg-type]  # each test gives values of the right types


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], True),
        (["id==abc"], True),
        (["id==ab"], False),
        (["id!=ab"], True),
        (["id~=^a.c$"], True),
        (["id!~=^a"], False),
        (["type==regular"], True),
        (["type==internal"], False),
        (["type==internal", "type==regular"], True),
        (["type==regular,inuse"], False),
        (["type==regular,immutable,private"], True),
        (['description=="npm, of the web"'], True),
        (['description~="m, of",immutable'], True),
        (["description~=npm"], True),
        (["parents"], False),
        (["mutable"], False),
        (["shared"], False),
    ],
)
def test_filters_match_as_buildkits_do(filters: list[str], expected: bool) -> None:
    assert parse_filters(filters)(usage()) is expected


def test_parents_are_matched_by_id() -> None:
    assert parse_filters(["parents~=p2"])(usage(parents=("p1", "p2")))
    assert parse_filters(["parents"])(usage(parents=("p1",)))


@pytest.mark.parametrize("text", ["", "id=abc", "colour==red", "inuse==true", "id~=(", 'id=="abc', "id==a,", "ID==a"])
def test_what_is_no_filter_is_invalid_and_removes_nothing(open_cache: OpenCache, text: str) -> None:
    cache = open_cache()
    ref(cache)
    with pytest.raises(Invalid):
        cache.prune(filters=[text])
    assert counts(cache) == (0, 1)


def test_filters_say_what_may_go(cache: Cache) -> None:
    keep, go = ref(cache, description="keep"), ref(cache, description="go")
    assert [one.id for one in cache.disk_usage(["description==go"])] == [go]
    assert [one.id for one in cache.prune(filters=["description==go"])] == [go]
    assert [one.id for one in cache.disk_usage()] == [keep]


def test_what_was_used_lately_is_kept(cache: Cache) -> None:
    old, new = ref(cache, description="old"), ref(cache, description="new")
    set_row(cache, old, last_used=SECOND)
    assert [one.id for one in cache.prune(keep_duration=3600)] == [old]
    assert [one.id for one in cache.prune(keep_duration=0)] == [new]


def test_internal_and_frontend_records_can_be_spared(cache: Cache) -> None:
    with cache.new(record_type=RecordType.INTERNAL, policy=CachePolicy.RETAIN):
        pass
    assert list(cache.prune(all=False)) == []
    assert len(list(cache.prune())) == 1


def set_row(cache: Cache, record_id: str, **columns: int) -> None:
    cache.store.records.update(record_id, **columns)


def test_the_least_recently_used_goes_first_until_the_store_is_small_enough(cache: Cache) -> None:
    ids = [ref(cache, size=2 * MIB, description=str(number)) for number in range(4)]
    for place, number in enumerate((2, 0, 3, 1)):
        set_row(cache, ids[number], last_used=(place + 1) * SECOND)
    limit = accounted(cache) - 3 * MIB
    removed = list(cache.prune(max_used_space=limit))
    assert [one.id for one in removed] == [ids[2], ids[0]]
    assert accounted(cache) <= limit
    assert list(cache.prune(max_used_space=limit)) == []


def test_usage_counts_weigh_in(cache: Cache) -> None:
    often, once, newest = (ref(cache, size=MIB, description=name) for name in ("often", "once", "newest"))
    set_row(cache, often, last_used=SECOND, usage_count=50)
    set_row(cache, once, last_used=2 * SECOND, usage_count=1)
    set_row(cache, newest, last_used=3 * SECOND, usage_count=1)
    [removed] = cache.prune(max_used_space=accounted(cache) - MIB // 2)
    assert removed.id == once


def test_children_go_before_parents_even_if_used_later(cache: Cache) -> None:
    base = ref(cache, size=KIB)
    with cache.get(base) as parent:
        child = ref(cache, parent, size=KIB)
    set_row(cache, base, last_used=SECOND)
    assert [one.id for one in cache.prune()] == [child, base]


def test_the_store_never_shrinks_below_what_is_reserved(cache: Cache) -> None:
    ids = [ref(cache, size=2 * MIB, description=str(number)) for number in range(3)]
    total = accounted(cache)
    removed = list(cache.prune(max_used_space=0, reserved_space=total - 3 * MIB))
    assert [one.id for one in removed] == ids[:2]
    assert list(cache.prune(min_free_space=0)) == []
    assert [one.id for one in cache.prune(min_free_space=1 << 60)] == ids[2:]


def transactions(cache: Cache, sizes: Iterable[int]) -> int:
    """Return in how many transactions refs of these sizes are removed."""
    ids = {ref(cache, size=size) for size in sizes}
    statements: list[str] = []
    cache.store.database._connection.set_trace_callback(statements.append)
    assert {one.id for one in cache.prune()} == ids
    cache.store.database._connection.set_trace_callback(None)
    assert snapshots_on_disk(cache) == 0
    return sum("DELETE FROM records" in one for one in "\n".join(statements).split("COMMIT"))


def test_records_go_in_batches_of_few_records_and_few_bytes(cache: Cache) -> None:
    assert transactions(cache, [0] * 100) == 1
    assert transactions(cache, [0] * 101) == 2
    assert transactions(cache, [16 * MIB] * 2) == 2


def test_what_others_take_between_two_batches_stays(cache: Cache, open_cache: OpenCache) -> None:
    for _ in range(102):
        cache.new().commit().release()
    order = [one.id for one in cache.prune(dry_run=True)]
    other = open_cache()
    taken: list[LocalImmutableRef] = []

    def look() -> bool:
        if not taken and not cache.store.database._connection.in_transaction:
            taken.append(other.get(cache.store.records.get(order[100]).twin or order[100]))
        return False

    done = prune(cache.store, PruneOptions(), stopped=look)
    assert [one.id for one in done] == [*order[:100], order[101]]
    [held] = taken
    with held.mounted(readonly=True) as path:
        assert os.listdir(path) == []
    assert cache.verify() == []
    held.release()


def test_a_prune_that_is_stopped_in_a_batch_says_what_went(cache: Cache) -> None:
    ids = [ref(cache) for _ in range(4)]
    asked: list[None] = []

    def after_two() -> bool:
        asked.append(None)
        return len(asked) >= 2

    assert [one.id for one in prune(cache.store, PruneOptions(), stopped=after_two)] == ids[:2]
    assert [one.id for one in cache.disk_usage()] == ids[2:]
    assert (snapshots_on_disk(cache), cache.verify()) == (2, [])


def test_a_snapshot_that_cannot_be_removed_keeps_no_other(cache: Cache) -> None:
    bad = [ref(cache) for _ in range(5)][2]
    cache.store.records.update(bad, snapshot="no key")
    with pytest.raises(Invalid, match="no key"):
        cache.prune()
    assert (counts(cache), snapshots_on_disk(cache)) == ((0, 0), 1)


def test_a_dry_run_gives_a_reason_for_each_record_and_removes_nothing(cache: Cache) -> None:
    base = cache.get(ref(cache, description="base"))
    held = cache.get(ref(cache, base, description="held"))
    base.release()
    old = ref(cache, size=KIB, description="old")
    other = ref(cache, description="other")
    set_row(cache, old, last_used=SECOND)
    decisions = {one.id: one for one in cache.prune(dry_run=True, keep_duration=60)}
    assert set(decisions) == {base.id, held.id, old, other}
    assert (decisions[old].verdict, decisions[old].reason) == (Verdict.REMOVE, "nobody holds it")
    assert decisions[old].freed > 0
    for one in (base.id, held.id):
        assert (decisions[one].verdict, decisions[one].freed) == (Verdict.KEEP, 0)
        assert "in use" in decisions[one].reason
    assert "used lately" in decisions[other].reason
    assert counts(cache) == (2, 2)
    [removed] = cache.prune(keep_duration=60)
    assert removed == decisions[old]


# Blobs


@pytest.fixture
def pushed(open_cache: OpenCache) -> Callable[[Cache, str], str]:
    """Return a function that gives a ref a blob by pushing it to another store."""

    def push(cache: Cache, ref_id: str) -> str:
        with serving(StoreBackend(open_cache("other"))) as url, cache.get(ref_id) as one:
            return one.push(f"oci://{url.partition('://')[2]}/x:{ref_id}").digest

    return push


Push = Callable[[Cache, str], str]


def blob_files(cache: Cache) -> int:
    return len(os.listdir(cache.root / "blobs/sha256"))


def test_blobs_go_before_trees_when_they_can_be_made_again(cache: Cache, pushed: Push) -> None:
    ids = [ref(cache, size=3 * MIB, description=str(number)) for number in range(2)]
    before = accounted(cache)
    digests = [pushed(cache, one) for one in ids]
    files = blob_files(cache)
    assert accounted(cache) >= before + 6 * MIB
    removed = list(cache.prune(max_used_space=before + MIB))
    assert [(one.id, one.verdict) for one in removed] == [(one, Verdict.DROP_BLOBS) for one in ids]
    assert all(one.freed >= 3 * MIB for one in removed)
    assert (counts(cache), blob_files(cache)) == ((0, 2), files - 2)
    assert accounted(cache) <= before + MIB
    assert [pushed(cache, one) for one in ids] == digests


def test_a_key_of_a_ref_whose_blob_went_is_served_as_before(cache: Cache, pushed: Push, open_cache: OpenCache) -> None:
    one = ref(cache, size=3 * MIB)
    with cache.get(one) as held:
        cache.put("key", held)
    pushed(cache, one)
    assert [done.verdict for done in cache.prune(max_used_space=accounted(cache) - MIB // 2)] == [Verdict.DROP_BLOBS]
    with serving(StoreBackend(cache)) as url:
        third = open_cache("third", remotes=[f"oci://{url.partition('://')[2]}"])
        found = third.lookup("key")
        assert isinstance(found, RemoteImmutableRef)
        with found, found.pull() as local:
            assert local.size() >= 3 * MIB


def test_blobs_from_elsewhere_go_after_those_made_here(cache: Cache, pushed: Push) -> None:
    foreign, own = ref(cache, size=3 * MIB, description="foreign"), ref(cache, size=3 * MIB, description="own")
    pushed(cache, foreign)
    pushed(cache, own)
    with cache.store.database.write() as db:
        db.execute("UPDATE blobs SET packed = 0 WHERE diff_id = (SELECT diff_id FROM records WHERE id = ?)", (foreign,))
    set_row(cache, foreign, last_used=SECOND)
    for expected in (own, foreign):
        [done] = cache.prune(max_used_space=accounted(cache) - MIB // 2)
        assert (done.id, done.verdict) == (expected, Verdict.DROP_BLOBS)
    assert [done.verdict for done in cache.prune(max_used_space=accounted(cache) - MIB // 2)] == [Verdict.REMOVE]


def test_a_blob_of_a_layer_in_use_stays(cache: Cache, pushed: Push) -> None:
    one = ref(cache, size=3 * MIB)
    pushed(cache, one)
    files = blob_files(cache)
    with cache.get(one):
        assert list(cache.prune(max_used_space=0)) == []
        assert blob_files(cache) == files


def test_a_shared_blob_is_counted_once_and_goes_with_its_last_record(cache: Cache, pushed: Push) -> None:
    ids = []
    for number in range(2):
        with cache.new(policy=CachePolicy.RETAIN) as work:
            with work.mounted() as path:
                (path / "same").write_bytes(bytes(range(256)) * 4)
                os.utime(path / "same", (1, 1))
                os.utime(path, (1, 1))
            with work.commit() as done:
                done.finalize()
                ids.append(done.id)
        pushed(cache, ids[number])
    first, second = cache.disk_usage()
    assert first.shared
    assert second.shared
    assert first.size - second.size == 4096
    assert accounted(cache) == pytest.approx(du(cache.root), abs=64 * KIB)
    files = blob_files(cache)
    assert [one.id for one in cache.prune(ids=[ids[0]])] == [ids[0]]
    assert blob_files(cache) == files
    [left] = cache.disk_usage()
    assert left.size == first.size
    assert [one.id for one in cache.prune()] == [ids[1]]
    assert blob_files(cache) < files


# 4


def test_sizes_agree_with_what_the_disk_says(cache: Cache, pushed: Push) -> None:
    base = ref(cache, size=500 * KIB, description="base")
    with cache.get(base) as parent:
        upper = ref(cache, parent, size=300 * KIB, description="upper")
    side = ref(cache, size=400 * KIB, description="side")
    pushed(cache, upper)
    with cache.get(upper) as one, cache.get(side) as two:
        merged = cache.merge([two, one])
        difference = cache.diff(two, one)
        for combined in (merged, difference):
            assert isinstance(combined, LocalImmutableRef)
            with combined.mounted(readonly=True) as path:
                assert (path / "file-base").stat().st_size == 500 * KIB
    with cache.new(policy=CachePolicy.RETAIN) as work:
        write(work, small="text")
        assert accounted(cache) == pytest.approx(du(cache.root), abs=64 * KIB)
    assert accounted(cache) == pytest.approx(du(cache.root), abs=64 * KIB)
    for handle in (merged, difference):
        assert handle is not None
        handle.release()
    list(cache.prune())
    assert accounted(cache) == pytest.approx(du(cache.root), abs=64 * KIB)


def test_sizes_follow_what_is_written_and_taken_up_again(cache: Cache) -> None:
    work = cache.new(policy=CachePolicy.RETAIN)
    write(work, small="text")
    done = work.commit()
    [before] = cache.disk_usage()
    done.release()
    list(cache.disk_usage())
    with cache.get_mutable(work.id) as again:
        with again.mounted() as path:
            (path / "large").write_bytes(os.urandom(500 * KIB))
        [during] = cache.disk_usage()
        assert during.size >= before.size + 500 * KIB
        with again.commit() as committed:
            [after] = cache.disk_usage()
            assert after.size == pytest.approx(during.size, abs=16 * KIB)
            committed.finalize()
            [final] = cache.disk_usage()
            assert final.size == pytest.approx(during.size, abs=16 * KIB)


# What is kept of remote layers


def test_what_was_fetched_is_accounted_for_and_goes_before_any_ref(open_cache: OpenCache, tmp_path: Path) -> None:
    one, cache = open_cache("one"), open_cache()
    kept = cache.root / "kept"
    with one.get(ref(one, size=3_000_000)) as theirs, serving(StoreBackend(one)) as url:
        reference = f"oci://{url.removeprefix('http://')}/shipway:{theirs.id}"
        mine = ref(cache, size=KIB)
        before = accounted(cache)
        with cache.remote(reference) as remote:
            remote.extract(tmp_path / "out")
        assert accounted(cache) - before > 3_000_000
        assert abs(accounted(cache) - du(cache.root)) < 100_000
        assert list(cache.prune(max_used_space=accounted(cache))) == []
        assert os.listdir(kept)
        assert list(cache.prune(max_used_space=accounted(cache) - 1_000_000)) == []
        assert os.listdir(kept) == []
        with cache.remote(reference) as remote:
            remote.extract(tmp_path / "again")
        assert [one.id for one in cache.prune()] == [mine]
        assert os.listdir(kept) == []


def test_a_directory_closed_to_its_owner_hinders_neither_du_nor_prune(open_cache: OpenCache) -> None:
    """Root looks into it all the same; everyone else counts what can be seen."""
    cache = open_cache()
    with cache.new() as work:
        with work.mounted() as path:
            (path / "closed").mkdir()
            (path / "closed/file").write_text("hidden")
            (path / "closed").chmod(0)
        work.commit().release()
    assert len(list(cache.disk_usage())) == 1
    assert [done.verdict for done in cache.prune()] == [Verdict.REMOVE]
    assert list(cache.disk_usage()) == []


def test_disk_usage_is_told_while_others_remove(cache: Cache, open_cache: OpenCache) -> None:
    other = open_cache()
    for _ in range(3):
        for _ in range(100):
            cache.new().commit().release()
        with ThreadPoolExecutor(1) as pool:
            removing = pool.submit(other.prune, all=True)
            while not removing.done():
                list(cache.disk_usage())
            removing.result()
    assert list(cache.disk_usage()) == []
