"""A process that dies at any instant loses only what it had not committed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from support.caches import DRIVERS
from support.crashes import Ground, ground

KILLED = -signal.SIGKILL


def kill_by_events(place: Ground, count: int, seed: int, most: int = 9000) -> None:
    """Let one process after the other die, just before a system call that chance has chosen."""
    chance = random.Random(seed)
    while place.deaths < count:
        job = place.job(chance.getrandbits(32), kill_at=int(most ** chance.random()))
        assert place.run([job]) in ([KILLED], [0])
        place.check()


def kill_by_time(place: Ground, rounds: int, processes: int, seed: int) -> None:
    """Let several processes at once die after a while that chance has chosen."""
    chance = random.Random(seed)
    for _ in range(rounds):
        jobs = [place.job(chance.getrandbits(32), alone=False) for _ in range(processes)]
        codes = place.run(jobs, [chance.random() * 0.4 * processes for _ in jobs])
        assert set(codes) <= {KILLED, 0}
        place.check()


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_committed_survives_a_death_at_any_step(tmp_path: Path, driver: str) -> None:
    with ground(tmp_path, driver) as place:
        kill_by_events(place, 11, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_committed_survives_the_death_of_several_at_once(tmp_path: Path, driver: str) -> None:
    with ground(tmp_path, driver) as place:
        kill_by_time(place, rounds=2, processes=3, seed=2)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("seed", range(2))
def test_three_hundred_deaths(tmp_path: Path, driver: str, seed: int) -> None:
    with ground(tmp_path, driver) as place:
        kill_by_events(place, 55, seed=10 + seed)
        for processes in (2, 4, 8):
            kill_by_time(place, rounds=3, processes=processes, seed=20 + seed + processes)
        assert place.deaths >= 80
