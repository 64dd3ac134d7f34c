"""How refs live: each test is a statement about holding, committing, finalizing and letting go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext

import pytest
from support.caches import OpenCache, counts, read, snapshots_on_disk, write
from support.trees import free_port

from shipway import Cache, CachePolicy, Invalid, LocalImmutableRef, Locked, NotFound, RemoteImmutableRef, Unavailable

RETAIN = CachePolicy.RETAIN


def commit(cache: Cache, parent: LocalImmutableRef | None = None, **files: str) -> LocalImmutableRef:
    with cache.new(parent, policy=RETAIN) as work:
        write(work, **files)
        return work.commit()


def refused(cache: Cache) -> AbstractContextManager[object]:
    """Expect that the block cannot write; where mounting is not allowed it writes to a private copy."""
    return pytest.raises(OSError, match="Read-only") if cache.driver.can_mount else nullcontext()


def test_an_empty_cache_uses_nothing_and_finds_nothing(cache: Cache) -> None:
    assert counts(cache) == (0, 0)
    with pytest.raises(NotFound, match="foobar"):
        cache.get("foobar")


def test_a_held_mutable_is_in_use_and_locked(cache: Cache) -> None:
    with cache.new(policy=RETAIN) as work:
        assert counts(cache) == (1, 0)
        with pytest.raises(Locked):
            cache.get_mutable(work.id)


def test_an_immutable_id_is_no_mutable_and_the_reverse(cache: Cache) -> None:
    with cache.new(policy=RETAIN) as work:
        with pytest.raises(Invalid):
            cache.get(work.id)
        with work.commit() as done, pytest.raises(Invalid):
            cache.get_mutable(done.id)


def test_commit_consumes_the_mutable_and_shares_its_snapshot(cache: Cache) -> None:
    work = cache.new(policy=RETAIN)
    write(work, file="text")
    done = work.commit()
    work.release()
    assert counts(cache) == (1, 0)
    assert snapshots_on_disk(cache) == 1
    with pytest.raises(Locked):
        cache.get_mutable(work.id)
    with cache.get(done.id) as first, cache.get(done.id) as second:
        assert first.id == second.id == done.id
        assert read(second, "file") == "text"
    with pytest.raises(Invalid, match="released"):
        work.commit()
    done.release()


def test_taking_the_mutable_again_makes_the_immutable_disappear(cache: Cache) -> None:
    with cache.new(policy=RETAIN) as work:
        write(work, file="one")
        done = work.commit()
    done.release()
    assert counts(cache) == (0, 1)
    with cache.get_mutable(work.id) as again:
        with pytest.raises(NotFound):
            cache.get(done.id)
        write(again, file="two")
        with again.commit() as anew:
            assert anew.id != done.id
            assert read(anew, "file") == "two"


def test_finalize_ends_the_mutable_and_may_be_repeated(cache: Cache) -> None:
    with cache.new(policy=RETAIN) as work:
        write(work, file="one")
        done = work.commit()
    done.finalize()
    done.finalize()
    done.release()
    with pytest.raises(NotFound):
        cache.get_mutable(work.id)
    with pytest.raises(Invalid):
        cache.get_mutable(done.id)
    with cache.get(done.id) as again:
        assert read(again, "file") == "one"


@pytest.mark.parametrize("use", ["parent", "key", "push"])
def test_what_is_used_by_others_is_finalized_first(cache: Cache, use: str) -> None:
    done = commit(cache, file="x")
    mutable = next(record.twin for record in cache.store.records.all() if record.id == done.id)
    if use == "parent":
        cache.new(done).release()
    elif use == "key":
        cache.put("key", done)
    else:
        with pytest.raises(Unavailable):
            done.push(f"oci://127.0.0.1:{free_port()}/nobody")
    done.release()
    assert mutable is not None
    with pytest.raises(NotFound):
        cache.get_mutable(mutable)


def test_a_committed_ref_comes_back_after_reopening(open_cache: OpenCache) -> None:
    cache = open_cache()
    with cache.new(policy=RETAIN) as work:
        write(work, file="kept")
        done = work.commit()
    cache.close()
    cache = open_cache()
    assert counts(cache) == (0, 1)
    with cache.get(done.id) as again:
        assert read(again, "file") == "kept"
    cache.close()
    cache = open_cache()
    with cache.get_mutable(work.id), pytest.raises(NotFound):
        cache.get(done.id)


def test_a_finalized_ref_comes_back_after_reopening(open_cache: OpenCache) -> None:
    cache = open_cache()
    with cache.new(policy=RETAIN) as work:
        write(work, file="kept")
        done = work.commit()
    done.finalize()
    cache.close()
    cache = open_cache()
    with pytest.raises(NotFound):
        cache.get_mutable(work.id)
    with cache.get(done.id) as again:
        assert read(again, "file") == "kept"


def test_a_retained_mutable_comes_back_after_reopening(open_cache: OpenCache) -> None:
    cache = open_cache()
    with cache.new(policy=RETAIN) as work:
        write(work, file="unfinished")
    cache.close()
    cache = open_cache()
    with cache.get_mutable(work.id) as again:
        assert read(again, "file") == "unfinished"


def test_a_half_done_finalize_is_repaired_when_the_store_is_opened(open_cache: OpenCache) -> None:
    cache = open_cache()
    done = commit(cache, file="x")
    record = cache.store.records.get(done.id)
    assert record.snapshot is not None
    cache.driver.commit(record.snapshot)  # and then the process dies
    done.release()
    cache.close()
    cache = open_cache()
    assert record.twin is not None
    with pytest.raises(NotFound):
        cache.get_mutable(record.twin)
    with cache.get(done.id) as again:
        assert read(again, "file") == "x"


def test_a_child_holds_its_parent(cache: Cache) -> None:
    parent = commit(cache, a="1")
    child = commit(cache, parent, b="2")
    parent.release()
    assert counts(cache) == (2, 0)
    with pytest.raises(Locked):
        cache.prune(ids=[parent.id])
    assert list(cache.prune()) == []
    child.release()
    assert counts(cache) == (0, 2)


def test_parent_is_a_hold_of_its_own(cache: Cache) -> None:
    parent = commit(cache, a="1")
    child = commit(cache, parent, b="2")
    above = child.parent
    assert above is not None
    assert above.id == parent.id
    assert parent.parent is None
    child.release()
    parent.release()
    assert counts(cache) == (1, 1)
    above.release()
    assert counts(cache) == (0, 2)


def test_without_retain_an_uncommitted_mutable_goes_at_once(cache: Cache) -> None:
    with cache.new() as work:
        write(work, file="lost")
    assert counts(cache) == (0, 0)
    assert snapshots_on_disk(cache) == 0
    with pytest.raises(NotFound):
        cache.get_mutable(work.id)


def test_records_over_a_missing_parent_or_snapshot_are_dropped_at_load(open_cache: OpenCache) -> None:
    cache = open_cache()
    base = commit(cache, a="1")
    middle = commit(cache, base, b="2")
    top = commit(cache, middle, c="3")
    snapshot = cache.store.records.get(middle.id).snapshot
    for ref in (base, middle, top):
        ref.release()
    assert snapshot is not None
    cache.driver.remove(snapshot)
    cache.close()
    cache = open_cache()
    assert [record.id for record in cache.disk_usage()] == [base.id]
    assert counts(cache) == (0, 1)
    assert len(list(cache.prune())) == 1
    assert snapshots_on_disk(cache) == 0


def test_prune_removes_nothing_held_nor_below_what_is_held(cache: Cache) -> None:
    parent = commit(cache, a="1")
    child = commit(cache, parent, b="2")
    child.release()
    assert len(list(cache.prune())) == 1
    with pytest.raises(NotFound):
        cache.get(child.id)
    cache.get(parent.id).release()
    parent.release()
    assert [record.in_use for record in cache.prune()] == [False]
    assert snapshots_on_disk(cache) == 0
    assert counts(cache) == (0, 0)


def test_prune_by_id_takes_only_what_is_named(cache: Cache) -> None:
    with commit(cache, a="1") as one, commit(cache, b="2") as two:
        ids = one.id, two.id
        one.finalize()
        two.finalize()
    with pytest.raises(NotFound):
        cache.prune(ids=[ids[0], "missing"])
    assert [record.id for record in cache.prune(ids=ids[:1])] == [ids[0]]
    cache.get(ids[1]).release()


def test_prune_takes_children_before_parents_and_the_least_recently_used_first(cache: Cache) -> None:
    refs = [commit(cache, a=str(number)) for number in range(3)]
    child = commit(cache, refs[2], b="2")
    for ref in refs:
        ref.finalize()
    child.finalize()
    for ref in (refs[1], refs[0], refs[2], child):
        ref.release()
    assert [record.id for record in cache.prune()] == [refs[1].id, refs[0].id, child.id, refs[2].id]


def test_metadata_is_kept(open_cache: OpenCache) -> None:
    cache = open_cache()
    with cache.new(policy=RETAIN, description="first", labels={"a": "b"}) as work:
        work.metadata.description = "second"
        work.metadata.labels = {"c": "d"}
        done = work.commit()
    created = done.metadata.created
    assert done.metadata.usage_count == 0
    assert done.metadata.last_used is None
    done.finalize()
    done.release()
    cache.close()
    cache = open_cache()
    with cache.get(done.id) as again:
        assert again.metadata.description == "second"
        assert dict(again.metadata.labels) == {"c": "d"}
        assert again.metadata.policy is RETAIN
        assert again.metadata.created == created
        assert again.metadata.usage_count == 1
        assert again.metadata.last_used is not None


def test_a_released_ref_answers_nothing_more(cache: Cache) -> None:
    done = commit(cache, a="1")
    done.release()
    done.release()
    for call in (done.size, done.finalize, done.mount, lambda: done.metadata):
        with pytest.raises(Invalid, match="released"):
            call()


def test_a_ref_is_not_released_or_committed_under_a_mount(cache: Cache) -> None:
    with cache.new() as work:
        with work.mounted():
            with pytest.raises(Locked):
                work.release()
            with pytest.raises(Locked):
                work.commit()
        work.commit().release()


def test_an_immutable_always_mounts_read_only(cache: Cache) -> None:
    with commit(cache, a="1") as done:
        assert all("ro" in mount.options for mount in done.mount(readonly=False))
        with done.mounted(readonly=False) as path, refused(cache):
            (path / "a").write_text("changed")
        assert read(done, "a") == "1"


def test_several_mounts_of_one_ref_share_its_data(cache: Cache) -> None:
    with cache.new() as work, work.mounted() as one, work.mounted() as two, work.mounted(readonly=True) as three:
        (one / "file").write_text("seen everywhere")
        assert (two / "file").read_text() == (three / "file").read_text() == "seen everywhere"


def test_size_is_what_the_disk_says(cache: Cache) -> None:
    with cache.new() as work:
        with work.mounted() as path:
            (path / "file").write_bytes(os.urandom(300_000))
        with work.commit() as done:
            done.finalize()
            assert 300_000 <= done.size() <= 330_000
            assert [record.size for record in cache.disk_usage()] == [done.size()]


HOLDER = textwrap.dedent("""
    import sys, time
    from shipway import Cache, CachePolicy
    cache = Cache.open(sys.argv[1], driver=sys.argv[2])
    work = cache.new(policy=CachePolicy.RETAIN)
    with work.mounted() as path:
        (path / "file").write_text("by the other")
    if sys.argv[3] == "commit":
        work.commit()
    print(work.id, flush=True)
    time.sleep(60)
""")


@pytest.mark.parametrize("then", ["hold", "commit"])
def test_what_another_process_holds_is_locked_until_it_dies(cache: Cache, then: str) -> None:
    args = [sys.executable, "-c", HOLDER, str(cache.root), cache.driver.name, then]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        mutable = other.stdout.readline().strip()
        assert counts(cache) == (1, 0)
        with pytest.raises(Locked):
            cache.get_mutable(mutable)
        assert list(cache.prune()) == []
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert counts(cache) == (0, 1)
        with cache.get_mutable(mutable) as again:
            assert read(again, "file") == "by the other"


FORKER = textwrap.dedent("""
    import os, signal, sys
    from shipway import Cache, CachePolicy
    cache = Cache.open(sys.argv[1], driver=sys.argv[2])
    cache.new(policy=CachePolicy.RETAIN)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
""")


def test_a_forked_child_does_not_keep_its_parents_holds_alive(cache: Cache) -> None:
    args = [sys.executable, "-c", FORKER, str(cache.root), cache.driver.name]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        try:
            process.wait()
            assert counts(cache) == (0, 1)
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_two_caches_of_one_process_see_each_other(open_cache: OpenCache) -> None:
    one, two = open_cache(), open_cache()
    with one.new(policy=RETAIN) as work:
        with pytest.raises(Locked):
            two.get_mutable(work.id)
        write(work, a="1")
        done = work.commit()
    with two.get(done.id) as same:
        assert read(same, "a") == "1"
    done.release()
    one.close()
    assert counts(two) == (0, 1)


def test_two_processes_may_mount_what_is_committed_but_not_finalized(open_cache: OpenCache) -> None:
    one, two = open_cache(), open_cache()
    with one.new(commit(one, base="1"), policy=RETAIN) as work:
        write(work, file="text")
        done = work.commit()
    with two.get(done.id) as same, done.mounted() as here, same.mounted() as there:
        assert (here / "file").read_text() == (there / "file").read_text() == "text"
        for path in (here, there):
            with refused(one):
                (path / "file").write_text("changed")
    assert read(done, "file") == "text"
    done.release()
    with two.get_mutable(work.id) as again:
        write(again, file="changed")
        assert read(again, "file") == "changed"


def test_asking_what_kind_of_ref_it_is_takes_no_hold(cache: Cache) -> None:
    parent = commit(cache, a="1")
    child = commit(cache, parent, b="2")
    parent.release()
    assert isinstance(child, LocalImmutableRef)
    assert not isinstance(child, RemoteImmutableRef)
    child.release()
    assert counts(cache) == (0, 2)
