"""Workers that are told to stop: every kind of wait ends, in the workers of workers too, and nobody else's does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from shipway import stopping
from shipway.stopping import Stopped, Waiting, Workers

HOUR = 3600.0


def receive(begun: threading.Event) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Waiting(ours.fileno()):
        begun.set()
        ours.recv(1)


def sleep(begun: threading.Event) -> None:
    begun.set()
    stopping.sleep(HOUR)


def wait_apart(begun: threading.Event) -> None:
    def wait() -> None:
        begun.set()
        threading.Event().wait()

    stopping.apart(wait)


def wait_below(begun: threading.Event) -> None:
    with Workers(1, "below") as below:
        below.submit(receive, begun).result()


WAITS = [receive, sleep, wait_apart, wait_below]


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_ends_when_its_work_is_stopped(wait: Callable[[threading.Event], None]) -> None:
    begun = threading.Event()
    with Workers(1, "x") as workers:
        future = workers.submit(wait, begun)
        begun.wait()
        workers.stop()
        with pytest.raises(Stopped):
            future.result()


@pytest.mark.parametrize("wait", WAITS)
def test_what_waits_after_the_stop_does_not_begin_to(wait: Callable[[threading.Event], None]) -> None:
    with Workers(1, "x") as workers:
        workers.stop()
        with pytest.raises(Stopped):
            workers.submit(wait, threading.Event()).result()


@pytest.mark.parametrize("wait", WAITS)
def test_leaving_by_an_exception_stops_and_waits(wait: Callable[[threading.Event], None]) -> None:
    begun = threading.Event()

    def leave() -> None:
        with Workers(1, "shipway-left") as workers:
            workers.submit(wait, begun)
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shipway-left")]


def test_others_work_goes_on() -> None:
    ours, theirs = socket.socketpair()
    begun = threading.Event()

    def work() -> bytes:
        with Waiting(ours.fileno()):
            begun.set()
            return ours.recv(1)

    with ours, theirs, Workers(1, "x") as going_on, Workers(1, "y") as stopped:
        future = going_on.submit(work)
        begun.wait()
        stopped.stop()
        theirs.send(b"1")
        assert future.result() == b"1"


def test_what_comes_too_late_is_dropped() -> None:
    go_on, begun, dropped = threading.Event(), threading.Event(), threading.Event()

    def make() -> str:
        begun.set()
        go_on.wait()
        return "late"

    def drop(made: str) -> None:
        assert made == "late"
        dropped.set()

    with Workers(1, "x") as workers:
        future = workers.submit(stopping.apart, make, drop)
        begun.wait()
        workers.stop()
        with pytest.raises(Stopped):
            future.result()
    go_on.set()
    assert dropped.wait(60)


def test_what_is_done_apart_comes_out_as_it_would_here() -> None:
    def fail() -> None:
        raise ValueError("broken")

    with Workers(1, "x") as workers:
        assert workers.submit(stopping.apart, lambda: 3).result() == 3
        with pytest.raises(ValueError, match="broken"):
            workers.submit(stopping.apart, fail).result()
    assert stopping.apart(lambda: 3) == 3
