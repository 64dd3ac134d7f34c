"""Work in several threads that ends when it is told to, wherever it waits.

An exception in one thread, such as `KeyboardInterrupt` in the main one, ends nothing in others, and whoever
leaves a pool waits for those. So a pool's threads are `Workers`: when they are told to stop, whatever they wait for
on a network or sleep for raises `Stopped`, and so it does in the workers of workers.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import TypeVar

from shipway.errors import ShipwayError

LOOK = 0.5
"""Seconds after which a main thread that waits for others looks up: an interrupt just before a wait does not end it."""
T = TypeVar("T")
End = Callable[[], None]


class Stopped(ShipwayError):
    """Work was given up, since it cannot lead to anything any more."""


class _Work:
    """What is to end together: `stop` calls what makes each wait end."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._ends: set[End] = set()

    def add(self, end: End) -> None:
        with self._lock:
            if self.stopped.is_set():
                raise Stopped("was given up")
            self._ends.add(end)

    def remove(self, end: End) -> None:
        with self._lock:
            self._ends.discard(end)

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            for end in self._ends:
                end()


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


class Workers(ThreadPoolExecutor):
    """A pool whose threads can be told to stop; leaving its block by an exception tells them, then waits for them."""

    def __init__(self, count: int, name: str) -> None:
        """Have up to `count` threads, whose work ends with that of the thread that makes them."""
        self._mine = _Work()
        self._parent = _work.get()
        if self._parent is not None:
            self._parent.add(self._mine.stop)
        super().__init__(count, name, initializer=_work.set, initargs=(self._mine,))

    def stop(self) -> None:
        """Let all that they wait for raise `Stopped`, and what they would wait for from now on."""
        self._mine.stop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; see `Executor.shutdown`."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._parent is not None:
            self._parent.remove(self._mine.stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
        self.shutdown()


def check() -> None:
    """Raise `Stopped` if the work that this thread does is to end."""
    work = _work.get()
    if work is not None and work.stopped.is_set():
        raise Stopped("was given up")


def sleep(seconds: float) -> None:
    """Wait for so long; `Stopped` if the work that this thread does is to end by then."""
    work = _work.get()
    if work is None:
        time.sleep(seconds)
    elif work.stopped.wait(seconds):
        raise Stopped("was given up")


class Waiting:
    """A block in which one thread waits for the socket `fd`: that is shut down if its work is to end. Used again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._work: _Work | None = None

    def __enter__(self) -> None:
        self._work = _work.get()
        if self._work is not None:
            self._work.add(self)

    def __call__(self) -> None:
        """Let the wait end."""
        # Whoever waits holds the socket open, and cannot leave the block meanwhile: it is that very socket.
        same = socket.socket(fileno=self._fd)
        try:
            with suppress(OSError):
                same.shutdown(socket.SHUT_RDWR)
        finally:
            same.detach()

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.remove(self)
            check()


def apart(call: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> T:
    """Return what `call` does, which cannot be told to end: a thread of its own does it, and is left behind.

    What comes after nobody waits any more is given to `drop`. So it must do nothing that is wrong if it
    is seen later: a blob may appear, a name must not change.
    """
    work = _work.get()
    if work is None:
        return call()
    result: Future[T] = Future()

    def run() -> None:
        try:
            made = call()
        except BaseException as error:  # noqa: BLE001  it comes out where it is waited for
            settle(partial(result.set_exception, error))
        else:
            if not settle(partial(result.set_result, made)):
                drop(made)

    lock = threading.Lock()

    def settle(how: Callable[[], object]) -> bool:
        with lock:
            if result.done():
                return False
            how()
            return True

    def end() -> None:
        settle(partial(result.set_exception, Stopped("was given up")))

    work.add(end)
    try:
        threading.Thread(target=run, name="shipway-apart", daemon=True).start()
        return result.result()
    finally:
        work.remove(end)
