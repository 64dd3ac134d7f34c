"""Stores to test with, on every driver that works here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from shipway import Cache, Mountable

DRIVERS = [pytest.param("overlay", marks=pytest.mark.root), "native"]

OpenCache = Callable[..., Cache]


@pytest.fixture(params=DRIVERS)
def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenCache]:
    """Return a function that opens a store (by default the same one each time), closed at the end."""
    opened: list[Cache] = []

    def open_it(name: str = "store", remotes: Iterable[str] = ()) -> Cache:
        cache = Cache.open(tmp_path / name, driver=request.param, remotes=remotes)
        opened.append(cache)
        return cache

    yield open_it
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(open_cache: OpenCache) -> Cache:
    """Return an open store."""
    return open_cache()


def counts(cache: Cache) -> tuple[int, int]:
    """Return how many records are in use, and how many are not."""
    records = list(cache.disk_usage())
    used = sum(record.in_use for record in records)
    return used, len(records) - used


def snapshots_on_disk(cache: Cache) -> int:
    """Return how many snapshot directories there are."""
    return len(os.listdir(cache.root / "snapshots"))


def write(ref: Mountable, **files: str) -> None:
    """Write files into a mutable ref."""
    with ref.mounted() as path:
        for name, text in files.items():
            (path / name).write_text(text)


def read(ref: Mountable, name: str) -> str:
    """Read a file of a ref."""
    with ref.mounted(readonly=True) as path:
        return (path / name).read_text()
