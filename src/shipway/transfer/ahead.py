"""Running several generators ahead of whoever reads them, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Generic, TypeVar

from shipway.stopping import LOOK, Workers

T = TypeVar("T")
Job = Callable[[], Generator[T, None, None]]

WORKERS = 8
"""Jobs that run at a time."""
BUDGET = 8 << 20
"""Bytes that each may be ahead of its reader; with `WORKERS` of them, 64 MiB are held at most."""
_BATCH = 256 << 10
"""Bytes that go from thread to thread at a time: handing over costs more than making a small item."""


class _Stopped(Exception):
    """Nobody wants the rest."""


class _Feed(Generic[T]):
    """What one job has made and nobody has taken yet."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._changed = threading.Condition()
        self._batches: deque[tuple[list[T], int]] = deque()
        self._held = 0
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None

    def run(self, job: Job[T], weigh: Callable[[T], int]) -> None:
        """Do the job, in a worker's thread."""
        error: BaseException | None = None
        try:
            if not self._stopped:
                with closing(job()) as items:
                    self._fill(items, weigh)
        except _Stopped:
            pass
        except BaseException as raised:  # noqa: BLE001  it comes out where the items are taken
            error = raised
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _fill(self, items: Iterable[T], weigh: Callable[[T], int]) -> None:
        batch: list[T] = []
        weight = 0
        for item in items:
            batch.append(item)
            weight += weigh(item)
            if weight >= _BATCH:
                self._put(batch, weight)
                batch, weight = [], 0
        self._put(batch, weight)

    def _put(self, batch: list[T], weight: int) -> None:
        with self._changed:
            while self._batches and self._held + weight > self._budget and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise _Stopped
            self._batches.append((batch, weight))
            self._held += weight
            self._changed.notify_all()

    def take(self) -> Iterator[T]:
        """Yield what the job makes, then raise what it raised."""
        while True:
            with self._changed:
                while not self._batches and not self._ended:
                    self._changed.wait(LOOK)
                if not self._batches:
                    if self._error:
                        raise self._error
                    return
                batch, weight = self._batches.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield from batch

    def stop(self) -> None:
        """Let the job end at the next item it makes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def run_ahead(
    jobs: Iterable[Job[T]], weigh: Callable[[T], int], *, workers: int = WORKERS, budget: int = BUDGET
) -> Generator[T, None, None]:
    """Yield the items of all jobs, job by job in their order, while up to `workers` of them run.

    `weigh` gives an item's size in bytes, `budget` how many of them each job may be ahead of its reader. An
    exception of a job comes out where its items would. When the generator is left early, all jobs are
    stopped, whatever they wait for, and have ended before it returns.
    """
    waiting = iter(jobs)
    feeds: deque[_Feed[T]] = deque()
    with Workers(workers, "shipway-read") as pool:

        def start(job: Job[T]) -> None:
            feed: _Feed[T] = _Feed(budget)
            feeds.append(feed)
            pool.submit(feed.run, job, weigh)

        try:
            for job in islice(waiting, workers):
                start(job)
            while feeds:
                yield from feeds[0].take()
                feeds.popleft()
                for job in islice(waiting, 1):
                    start(job)
        finally:
            for feed in feeds:
                feed.stop()
