"""Whoever is interrupted, at whatever call, leaves a store that is sound: no record without its files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from support.caches import DRIVERS

import shipway
from shipway import Cache, LocalImmutableRef

LOCAL = str(Path(shipway.__file__).parent / "local")


@contextmanager
def interrupted_at(number: int) -> Iterator[None]:
    """Raise `KeyboardInterrupt` in this thread at the call with that number of a function of the store."""
    left = number

    def hook(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_filename.startswith(LOCAL):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)


def make(cache: Cache, tree: Path) -> None:
    """Use all that makes records and snapshots here."""
    with cache.import_tree(tree) as ref, cache.new(ref) as work:
        with work.mounted() as path:
            (path / "other").write_text("text")
        with work.commit() as done:
            done.finalize()
            whole = cache.merge([ref, done])
            assert isinstance(whole, LocalImmutableRef)
            with whole, whole.mounted(readonly=True) as path:
                assert {item.name for item in path.iterdir()} == {"file", "other"}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_an_interrupt_at_any_call_leaves_no_record_without_its_files(tmp_path: Path, driver: str, step: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("text")
    number = interrupted(tmp_path / "store", driver, step, lambda cache: make(cache, tree))
    assert number > 100


def interrupted(root: Path, driver: str, step: int, work: Callable[[Cache], None]) -> int:
    """Do `work` on a store, interrupted at its first call, then `step` calls later, and so on, until it gets done."""
    for number in range(1, 2000, step):
        with Cache.open(root, driver=driver) as cache:
            try:
                with interrupted_at(number):
                    work(cache)
            except KeyboardInterrupt:
                assert cache.verify() == []
            else:
                return number
            known = sum(not row.in_use for row in cache.disk_usage())
        with Cache.open(root, driver=driver) as cache:  # which drops what has no files
            assert len(list(cache.disk_usage())) >= known
            list(cache.prune())
    raise AssertionError("it never got done")
