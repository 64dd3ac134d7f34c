"""Cache mounts: names that go on from holder to holder, snapshots in time, sharing, moving."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from support.caches import OpenCache, read, write

from shipway import Cache, CachePolicy, Invalid, LocalImmutableRef, Locked, NotFound, RecordType, cachemounts
from shipway.server.app import serving
from shipway.server.store_backend import StoreBackend


def names(cache: Cache) -> list[str]:
    return [one.name for one in cache.cache_mounts.records()]


def test_a_name_goes_on_where_its_last_holder_left_it(open_cache: OpenCache) -> None:
    cache = open_cache()
    with cache.mutable("pip") as first:
        write(first, wheel="1")
    with cache.mutable("pip") as second:
        assert second.id == first.id
        assert second.metadata.record_type is RecordType.CACHE_MOUNT
        write(second, more="2")
    cache.close()
    with open_cache().mutable("pip") as third:
        assert (read(third, "wheel"), read(third, "more")) == ("1", "2")


def test_a_commit_is_a_moment_in_time_and_the_name_goes_on_from_it(cache: Cache) -> None:
    with cache.mutable("pip") as work:
        write(work, wheel="1")
        saved = work.commit()
    with cache.mutable("pip") as work:
        assert read(work, "wheel") == "1"
        write(work, wheel="2")
    saved.release()
    with cache.get(saved.id) as again:
        assert read(again, "wheel") == "1"
    with cache.mutable("pip") as work:
        assert read(work, "wheel") == "2"


def test_a_commit_by_id_that_is_not_finalized_goes_on_too(cache: Cache) -> None:
    with cache.mutable("pip") as work:
        write(work, wheel="1")
    with cache.get_mutable(work.id) as same, same.commit() as saved, cache.mutable("pip") as further:
        assert read(further, "wheel") == "1"
        assert read(saved, "wheel") == "1"


def test_a_new_name_starts_from_the_parent_and_an_old_one_does_not(cache: Cache) -> None:
    with cache.new() as work:
        write(work, base="b")
        parent = work.commit()
    with cache.mutable("with", parent) as one:
        assert read(one, "base") == "b"
    with cache.mutable("without") as two:
        write(two, own="o")
    with cache.mutable("without", parent) as two, two.mounted() as path:
        assert os.listdir(path) == ["own"]


def test_shared_holders_of_one_process_write_to_one_tree(cache: Cache) -> None:
    with cache.mutable("pip") as one, cache.mutable("pip") as two:
        assert one.id == two.id
        with one.mounted() as first, two.mounted() as second:
            (first / "a").write_text("by one")
            assert (second / "a").read_text() == "by one"
        with pytest.raises(Locked):
            one.commit()
        with pytest.raises(Locked):
            one.mount()
        two.release()
        with one.commit() as done:
            assert read(done, "a") == "by one"


def test_a_private_holder_that_comes_second_gets_a_fresh_one(cache: Cache) -> None:
    with cache.mutable("npm", sharing="private") as one:
        write(one, a="1")
        with cache.mutable("npm", sharing="private") as two, two.mounted() as path:
            assert two.id != one.id
            assert os.listdir(path) == []
    with cache.mutable("npm", sharing="private") as again:
        assert again.id == one.id
    assert names(cache) == ["npm", "npm"]


def test_a_locked_one_is_waited_for(cache: Cache) -> None:
    first = cache.mutable("apt", sharing="locked")
    with pytest.raises(Locked, match="apt"):
        cache.mutable("apt", sharing="locked", timeout=0.1)
    got = []
    waiting = threading.Thread(target=lambda: got.append(cache.mutable("apt", sharing="locked", timeout=60)))
    waiting.start()
    assert got == []
    first.release()
    waiting.join()
    assert [one.id for one in got] == [first.id]
    got[0].release()


HOLDER = textwrap.dedent("""
    import sys, time
    from shipway import Cache
    cache = Cache.open(sys.argv[1])
    work = cache.mutable("pip")
    with work.mounted() as path:
        (path / "file").write_text("by the other")
    print(work.id, flush=True)
    time.sleep(60)
""")


def test_what_another_process_holds_is_locked_and_goes_on_when_that_dies(cache: Cache) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, cache.root], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            held = other.stdout.readline().strip()
            with pytest.raises(Locked):
                cache.mutable("pip")
            with cache.mutable("pip", sharing="private") as own:
                assert own.id != held
            [state] = [one for one in cache.cache_mounts.records() if one.id == held]
            assert state.in_use
        finally:
            other.send_signal(signal.SIGKILL)
    with cache.mutable("pip", timeout=10) as work:
        assert (work.id, read(work, "file")) == (held, "by the other")


def test_committing_what_did_not_change_gives_the_same_ref(cache: Cache) -> None:
    with cache.mutable("pip") as work:
        write(work, wheel="1")
    with cache.cache_mounts.commit("pip") as first:
        pass
    with cache.mutable("pip"):
        pass
    with cache.cache_mounts.commit("pip") as second:
        assert second.id == first.id
    with cache.cache_mounts.commit("pip") as third:
        assert third.id == first.id
    assert len(list(cache.disk_usage())) == 1


def test_saved_and_restored_between_stores_it_is_the_same(open_cache: OpenCache) -> None:
    here, there = open_cache("here"), open_cache("there")
    with here.mutable("pip") as work:
        write(work, wheel="1")
    with serving(StoreBackend(open_cache("registry"))) as url:
        reference = f"oci://{url.partition('://')[2]}/ci:pip"
        with here.cache_mounts.commit("pip") as saved:
            saved.push(reference)
        with there.mutable("pip") as work:
            write(work, stale="0")
            with there.remote(reference) as found, found.pull() as local:
                with pytest.raises(Locked):
                    there.restore("pip", local)
                work.release()
                there.restore("pip", local)
                there.restore("copy", local)
    for name in ("pip", "copy"):
        with there.mutable(name) as work, work.mounted() as path:
            assert {one.name: one.read_text() for one in Path(path).iterdir()} == {"wheel": "1"}


def test_saving_often_does_not_make_trees_deep(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachemounts, "MAX_LAYERS", 3)
    for number in range(8):
        with cache.mutable("pip") as work:
            write(work, **{f"file{number}": "x"})
        with cache.cache_mounts.commit("pip") as saved:
            depth = 0
            below: LocalImmutableRef | None = saved
            while below is not None:
                depth, below = depth + 1, below.parent
            assert depth <= 4
            assert read(saved, "file0") == "x"


def test_a_pruned_cache_mount_starts_afresh(cache: Cache) -> None:
    with cache.mutable("pip") as work:
        write(work, wheel="1")
        assert list(cache.prune()) == []
    assert [one.id for one in cache.prune(filters=["type==exec.cachemount"])] == [work.id]
    assert names(cache) == []
    with cache.mutable("pip") as work, work.mounted() as path:
        assert os.listdir(path) == []


def test_removing_a_name_removes_its_tree_unless_it_is_held(cache: Cache) -> None:
    with cache.mutable("pip") as work:
        with pytest.raises(Locked):
            cache.cache_mounts.remove("pip")
        write(work, wheel="1")
    cache.cache_mounts.remove("pip")
    assert list(cache.disk_usage()) == []
    for gone in (cache.cache_mounts.remove, cache.cache_mounts.commit):
        with pytest.raises(NotFound):
            gone("pip")


def test_a_name_must_be_given_and_sharing_be_known(cache: Cache) -> None:
    with pytest.raises(Invalid):
        cache.mutable("")
    with pytest.raises(Invalid):
        cache.mutable("pip", sharing="public")  # type: ignore[arg-type]  # what is tested


def test_an_ordinary_mutable_is_never_shared(cache: Cache) -> None:
    with cache.new(policy=CachePolicy.RETAIN) as work, pytest.raises(Locked):
        cache.get_mutable(work.id)
