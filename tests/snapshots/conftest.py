"""A store's root in an awkward place, and each driver on one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shipway.snapshots.choose import open_driver
from shipway.snapshots.contract import SnapshotDriver

OpenDriver = Callable[[str], SnapshotDriver]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory whose name has all that means something in mount options."""
    path = tmp_path / "a root: with, all\\of it"
    path.mkdir()
    return path


@pytest.fixture
def open_one(root: Path) -> Iterator[OpenDriver]:
    """Return a function that opens a driver by name, each in its own directory; all are closed."""
    opened: list[SnapshotDriver] = []

    def open_it(name: str) -> SnapshotDriver:
        if name == "overlay" and os.geteuid() != 0:
            pytest.skip("mounting an overlay needs root")
        opened.append(open_driver(name, root / f"{name}{len(opened)}"))
        return opened[-1]

    yield open_it
    for driver in opened:
        driver.close()


@pytest.fixture(params=["overlay", "native"])
def driver(request: pytest.FixtureRequest, open_one: OpenDriver) -> SnapshotDriver:
    """Return each driver in turn."""
    return open_one(request.param)
