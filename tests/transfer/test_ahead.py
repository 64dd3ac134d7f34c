"""Running generators ahead: order, errors, bounded memory, and an end to all of them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing

import pytest

from shipway.transfer.ahead import BUDGET, WORKERS, Job, run_ahead

BIG = 1 << 20


def counting(name: int, items: int) -> Job[tuple[int, int]]:
    def job() -> Generator[tuple[int, int], None, None]:
        for item in range(items):
            yield name, item

    return job


def weigh(_: object) -> int:
    return BIG


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("shipway-read")]


def test_items_come_job_by_job_and_in_order() -> None:
    jobs = [counting(name, name % 7) for name in range(40)]
    assert list(run_ahead(jobs, weigh)) == [(name, item) for name in range(40) for item in range(name % 7)]


def test_no_jobs_yield_nothing() -> None:
    assert list(run_ahead([], weigh)) == []


def test_jobs_run_at_the_same_time() -> None:
    together = threading.Barrier(WORKERS, timeout=30)

    def job() -> Generator[int, None, None]:
        yield together.wait()

    assert sorted(run_ahead([job] * WORKERS, weigh)) == list(range(WORKERS))


def test_an_error_comes_out_after_what_its_job_made_and_ends_everything() -> None:
    def breaking() -> Generator[tuple[int, int], None, None]:
        yield 1, 0
        raise ValueError("broken")

    items = run_ahead([counting(0, 2), breaking, counting(2, 1000)], weigh)
    assert [next(items) for _ in range(3)] == [(0, 0), (0, 1), (1, 0)]
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert not running()


def test_a_job_gets_no_further_ahead_than_its_budget() -> None:
    made: list[int] = []

    def endless() -> Generator[int, None, None]:
        while True:
            made.append(len(made))
            yield made[-1]

    with closing(run_ahead([endless], weigh)) as items:
        for _ in range(100):
            next(items)
    assert len(made) <= 100 + BUDGET // BIG + 2


def test_leaving_early_closes_every_job() -> None:
    closed: list[int] = []

    def endless(name: int) -> Job[int]:
        def job() -> Generator[int, None, None]:
            try:
                while True:
                    yield name
            finally:
                closed.append(name)

        return job

    with closing(run_ahead([endless(name) for name in range(4)], weigh)) as items:
        next(items)
    assert set(closed) == {0, 1, 2, 3}
    assert not running()
