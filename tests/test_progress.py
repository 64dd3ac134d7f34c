"""What long calls tell: all items from the beginning, sums that end at the whole, and rates."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import FileRemote, copy_tree, put_layer
from support.trees import make_varied_tree

from shipway import Cache, Overall, Progress, Tally
from shipway.layers.compression import Compression
from shipway.server import serving
from shipway.server.store_backend import StoreBackend
from shipway.transfer.remote_tree import extract_remote

MIB = 1 << 20


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_tally_adds_items_up() -> None:
    tally = Tally()
    tally.add(Progress("pull", "a", 0, 10))
    first = tally.add(Progress("pull", "b", 0, 30))
    assert (first.done, first.total, first.items, first.finished) == (0, 40, 2, 0)
    tally.add(Progress("unpack", "a", 5, 10))
    tally.add(Progress("pull", "b", 15, 30))
    last = tally.add(Progress("pull", "a", 10, 10))
    assert (last.task, last.done, last.total, last.items, last.finished) == ("pull", 25, 40, 2, 1)
    assert tally.add(Progress("pull", "c", 1, None)).total is None


def test_a_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    tally = Tally(clock)

    def at(now: float, done: int) -> Overall:
        clock.now = now
        return tally.add(Progress("push", "a", done, 100 * MIB))

    first = at(100, 0)
    assert (first.rate, first.elapsed, first.remaining) == (0, 0, None)
    half = at(102, 20 * MIB)
    assert (half.rate, half.elapsed, half.remaining) == (10 * MIB, 2, 8)
    at(108, 20 * MIB)
    slow = at(110, 22 * MIB)
    assert slow.rate == MIB
    again = at(111, 5 * MIB)  # sent anew
    assert again.rate >= 0
    assert at(120, 100 * MIB).remaining == 0


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    first = make_varied_tree(tmp_path / "first")
    (first / "noise").write_bytes(random.Random(1).randbytes(3 * MIB))
    second = copy_tree(first, tmp_path / "second")
    (second / "more-noise").write_bytes(random.Random(2).randbytes(3 * MIB))
    return [first, second]


class Told:
    """All events of a call, in order."""

    def __init__(self) -> None:
        self.events: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.events.append(progress)

    def whole(self, task: str) -> Overall:
        """Check what a task told, and return how far it was in the end."""
        events = [event for event in self.events if event.task == task]
        assert events, f"nothing told of {task}, but of { ({event.task for event in self.events}) }"
        tally = Tally()
        items = {event.item for event in events}
        begun = [event for event in events if not event.done]
        assert {event.item for event in begun[: len(items)]} == items, f"{task} did not tell of all items at first"
        overall = [tally.add(event) for event in events][-1]
        assert overall.total == overall.done, task
        assert overall.finished == overall.items
        return overall


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[Cache, str]]:
    with Cache.open(tmp_path / "worker") as cache, serving(StoreBackend(cache)) as url:
        yield cache, "oci://" + url.removeprefix("http://")


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd:chunked", "estargz"])
def test_a_layer_that_is_packed_again_tells_of_the_whole_from_the_beginning(
    worker: tuple[Cache, str], trees: list[Path], tmp_path: Path, form: str
) -> None:
    _, base = worker
    with Cache.open(tmp_path / "mine") as cache, cache.import_tree(trees[0]) as ref:
        ref.push(f"{base}/team/image:v1", compression="uncompressed")
        with cache.remote(f"{base}/team/image:v1") as remote:
            told = Told()
            cache.push(remote, f"{base}/team/image:v2", compression=form, level=1, force=True, progress=told)
    assert all(event.total for event in told.events if event.task in ("read", "pack"))
    assert told.whole("pack").done > 3 * MIB
    if form in ("zstd:chunked", "estargz"):
        assert told.whole("read").done > 3 * MIB


def test_each_call_tells_of_the_whole_and_ends_with_it(
    worker: tuple[Cache, str], trees: list[Path], tmp_path: Path
) -> None:
    _, base = worker
    with Cache.open(tmp_path / "mine") as cache, Cache.open(tmp_path / "other") as other:
        imported, pushed, extracted, pulled, verified = (Told() for _ in range(5))
        below = cache.import_tree(trees[0], progress=imported)
        ref = cache.import_tree(trees[1], below)
        assert imported.whole("import").done > 6 * MIB

        ref.push(f"{base}/team/image:v1", progress=pushed)
        assert pushed.whole("push").items == 3  # two layers and a configuration
        assert pushed.whole("push").done > 6 * MIB
        pushed.whole("pack")

        with other.remote(f"{base}/team/image:v1") as remote:
            remote.extract(tmp_path / "out", progress=extracted)
            assert extracted.whole("extract").done > 6 * MIB
        with (
            Cache.open(tmp_path / "third") as third,
            third.remote(f"{base}/team/image:v1") as remote,
        ):
            with remote.pull(progress=pulled) as local:
                assert pulled.whole("pull").items == 2
                assert pulled.whole("pull").done > 6 * MIB
                again = Told()
                local.extract(tmp_path / "again", progress=again)
                assert again.whole("extract").done == extracted.whole("extract").done
            third.verify(progress=verified)
        assert verified.whole("verify blobs").done > 6 * MIB
        assert verified.events[-1].unit == "objects"
        assert verified.whole("verify snapshots").done == 2


def test_a_layer_that_is_here_already_is_done_at_once(
    worker: tuple[Cache, str], trees: list[Path], tmp_path: Path
) -> None:
    cache, base = worker
    with cache.import_tree(trees[0]) as below, cache.import_tree(trees[1], below) as ref:
        below.push(f"{base}/team/image:one")
        ref.push(f"{base}/team/image:two")
    with Cache.open(tmp_path / "mine") as mine:
        told = Told()
        mine.remote(f"{base}/team/image:one").pull()
        mine.remote(f"{base}/team/image:two").pull(progress=told)
        overall = told.whole("pull")
        assert overall.items == 2
        assert overall.total is not None
        assert overall.total > 6 * MIB


@pytest.mark.parametrize("sources", [["bin/tool"], []])
def test_a_layer_that_is_read_no_further_than_needed_ends_there(
    tmp_path: Path, trees: list[Path], sources: list[str]
) -> None:
    files = FileRemote(tmp_path / "blobs")
    layer = put_layer(files, None, trees[0], Compression.GZIP)
    told = Told()
    extract_remote(files, [layer], tmp_path, tmp_path / "out", sources, progress=told)
    scanned = told.whole("scan")
    assert (scanned.done < layer.size) == bool(sources)
    told.whole("extract")
