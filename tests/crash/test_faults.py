"""What fails under the store is a typed error; nothing committed is lost, and the store is sound afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.caches import DRIVERS
from support.crashes import Ground, ground

SHIM = Path(__file__).parent / "failing.c"


def work(place: Ground, rounds: int, seed: int, processes: int = 1, **options: Any) -> None:
    """Let processes work under a fault, `processes` at once; none may see an error that is not typed."""
    chance = random.Random(seed)
    for _ in range(rounds):
        alone = processes == 1
        jobs = [place.job(chance.getrandbits(31), alone=alone, tolerant=True, **options) for _ in range(processes)]
        assert place.run(jobs) == [0] * processes
        place.check()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-R", str(path)], check=True)


@contextmanager
def on_a_full_disk(directory: Path, driver: str) -> Iterator[Ground]:
    """Yield a store on a disk that a ballast fills but for some room, which is made away with to look at the store."""
    with small_disk(directory / "disk", "64m") as disk, ground(directory, driver, disk / "store") as place:
        yield place


def fill(place: Ground, rounds: int, seed: int, processes: int = 1) -> None:
    """Work while the disk is nearly full, with ever more or less room."""
    chance = random.Random(seed)
    ballast = place.root.parent / "ballast"
    for _ in range(rounds):
        disk = os.statvfs(place.root.parent)
        room = chance.randrange(0, 1 << 20, 4096)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(4096, disk.f_bavail * disk.f_frsize - room))
        jobs = [place.job(chance.getrandbits(31), alone=processes == 1, tolerant=True) for _ in range(processes)]
        codes = place.run(jobs)
        ballast.unlink()
        assert codes == [0] * processes
        place.check()


@contextmanager
def with_failing_calls(directory: Path, driver: str) -> Iterator[Ground]:
    """Yield a store whose workers can have system calls fail."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    shim = directory / "failing.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM), "-ldl"], check=True)
    with ground(directory, driver, environment={"LD_PRELOAD": str(shim)}) as place:
        yield place


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("driver", ["overlay", "native"])
def test_a_full_disk_is_no_space_and_loses_nothing(tmp_path: Path, driver: str) -> None:
    with on_a_full_disk(tmp_path, driver) as place:
        fill(place, 2, seed=1)
        fill(place, 1, seed=2, processes=2)
        assert place.errors["NoSpace"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_too_many_open_files_are_an_error_and_lose_nothing(tmp_path: Path, driver: str) -> None:
    with ground(tmp_path, driver) as place:
        for spare in (3, 6, 10):
            work(place, 1, seed=spare, limits={"RLIMIT_NOFILE": 10 + spare})
        assert place.errors.total() >= 10


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_disk_that_fails_is_an_error_and_loses_nothing(tmp_path: Path, driver: str) -> None:
    with with_failing_calls(tmp_path, driver) as place:
        for rate in (30, 300):
            work(place, 1, seed=rate, failing=("EIO", rate), repair=False)
        work(place, 1, seed=3, processes=2, failing=("EIO", 100), repair=False)
        assert place.injected >= 20


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_clock_that_jumps_by_years_harms_nothing(tmp_path: Path, driver: str) -> None:
    with ground(tmp_path, driver) as place:
        work(place, 2, seed=4, clock=True)
        work(place, 1, seed=5, processes=2, clock=True)
        assert place.errors.total() == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_hundreds_of_faults(tmp_path: Path, driver: str, processes: int) -> None:
    with with_failing_calls(tmp_path, driver) as place:
        for name, rate in (("EIO", 20), ("EIO", 100), ("ENOSPC", 50)):
            work(
                place, 2, seed=rate, processes=processes, failing=(name, rate), repair=False, steps=40 // processes + 1
            )
        work(place, 1, seed=1, processes=processes, limits={"RLIMIT_NOFILE": 16}, steps=40 // processes + 1)
        work(place, 1, seed=2, processes=processes, clock=True, steps=40 // processes + 1)
        print(f"{place.injected} calls failed, {place.errors.total()} errors: {dict(place.errors)}")  # noqa: T201  pytest -rP
        assert place.injected >= 30
