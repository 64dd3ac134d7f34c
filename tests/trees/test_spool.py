"""Bytes that grow at their end come back as they were put, from memory or from a file that nobody sees."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slope import traced_peak

from shipway import oci
from shipway.errors import Unavailable
from shipway.trees import spool as module
from shipway.trees.spool import Spool

MIB = 1 << 20


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3 * module._MEMORY // 2), max_size=8),
    ends=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8),
)
def test_what_was_put_comes_back(sizes: list[int], ends: list[tuple[float, float]]) -> None:
    spool, expected = Spool(), b""
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        spool.add(memoryview(data))
        expected += data
        assert len(spool) == len(expected)
    for one, other in ends:
        start, end = sorted((int(one * len(expected)), int(other * len(expected))))
        assert spool.read(start, end) == expected[start:end]
    assert b"".join(spool.pieces()) == expected
    assert spool.digest() == oci.sha256(expected)


def test_little_of_it_is_in_memory() -> None:
    def job() -> None:
        spool = Spool()
        for _ in range(100):
            spool.add(bytes(MIB // 4))
        assert len(spool) == 25 * MIB
        assert all(len(piece) <= MIB for piece in spool.pieces())

    assert traced_peak(job) < 4 * MIB


def test_nothing_is_left_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    opened = len(os.listdir("/proc/self/fd"))
    spool = Spool(bytes(MIB))
    assert len(os.listdir("/proc/self/fd")) == opened + 1
    assert list(tmp_path.iterdir()) == []
    assert spool.read(MIB - 3, MIB) == bytes(3)
    del spool
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == opened


def test_where_there_is_no_room_for_a_file_it_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    spool = Spool(b"a" * MIB)
    spool.add(b"b" * MIB)
    assert spool.read(MIB - 1, MIB + 1) == b"ab"
    assert len(spool) == 2 * MIB


def test_where_the_room_ends_the_rest_stays_in_memory() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))  # a write across it is short, one behind it fails
        for number in range(12):
            spool.add(bytes([number]) * (MIB // 4 + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    expected = b"".join(bytes([number]) * (MIB // 4 + 1) for number in range(12))
    assert b"".join(spool.pieces()) == expected


def test_of_very_many_some_stay_in_memory() -> None:
    opened = len(os.listdir("/proc/self/fd"))
    spools = [Spool(number.to_bytes(4, "big") * (module._MEMORY // 4)) for number in range(2 * module._MOST_FILES)]
    assert len(os.listdir("/proc/self/fd")) <= opened + module._MOST_FILES
    for number, spool in enumerate(spools):
        assert spool.read(4000, 4004) == number.to_bytes(4, "big")


def test_a_file_that_lost_something_is_an_error() -> None:
    spool = Spool(bytes(MIB))
    os.truncate(spool._fd, MIB // 2)
    with pytest.raises(Unavailable, match="shorter"):
        spool.read(0, MIB)
