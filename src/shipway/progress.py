"""How long-running calls tell their caller how far they are.

Each call that can take long has a `progress` parameter: a callable that is
handed a `Progress` now and then, from a thread that does the work. Raising
from it (or `KeyboardInterrupt`) stops the work promptly, leaves nothing
half-made behind, and comes out of the call.

A call that works on several items, such as layers, tells of each with `done` 0 before the first byte of any
moves, so that their totals add up to that of the call from the beginning. The last event of
each item has `done` equal to `total`. `Tally` does the sums, and the rates.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

_SHORT = 0.1
"""Seconds below which a rate says nothing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a task: `done` of `total` bytes (or what `unit` says), `total` None if unknown.

    `task` says what is being done ("import", "pack", "read", "pull", "push", "extract", "scan", "verify blobs", …) and
    `item` what to (a digest, a path, nothing if it is all one); one (task, item) pair is one bar. `done` falls back
    when something is sent anew.
    """

    task: str
    item: str
    done: int
    total: int | None
    unit: Literal["bytes", "objects"] = "bytes"


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Overall:
    """How far all items of a task are together."""

    task: str
    done: int
    total: int | None
    """None while that of any item is unknown."""
    items: int
    finished: int
    """How many of the items are done."""
    rate: float
    """Per second, over the last few seconds; 0 in the beginning."""
    elapsed: float
    """Seconds since the task's first event."""

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at this rate, or None if that cannot be told."""
        if self.total is None or (self.done < self.total and not self.rate):
            return None
        return (self.total - self.done) / self.rate if self.done < self.total else 0.0


@dataclass(slots=True)
class _Task:
    began: float
    items: dict[str, Progress] = field(default_factory=dict)
    seen: deque[tuple[float, int]] = field(default_factory=deque)


class Tally:
    """Adds up what a call tells: `add` is a `progress=` callback that also returns the task's sums. Thread-safe."""

    WINDOW = 5.0
    """Seconds that a rate is taken over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the time from `clock`, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}

    def add(self, progress: Progress) -> Overall:
        """Take note of an event, and return how far its task is."""
        with self._lock:
            now = self._clock()
            task = self._tasks.setdefault(progress.task, _Task(now))
            task.items[progress.item] = progress
            done = sum(item.done for item in task.items.values())
            while task.seen and (task.seen[-1][1] > done or task.seen[0][0] < now - self.WINDOW):
                task.seen.pop() if task.seen[-1][1] > done else task.seen.popleft()
            task.seen.append((now, done))
            return self._overall(progress.task, task, now, done)

    def _overall(self, name: str, task: _Task, now: float, done: int) -> Overall:
        totals = [item.total for item in task.items.values()]
        known = [total for total in totals if total is not None]
        since, before = task.seen[0]
        return Overall(
            task=name,
            done=done,
            total=sum(known) if len(known) == len(totals) else None,
            items=len(totals),
            finished=sum(item.done == item.total for item in task.items.values()),
            rate=(done - before) / (now - since) if now - since > _SHORT else 0.0,
            elapsed=now - task.began,
        )
