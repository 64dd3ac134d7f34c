"""Blobs that come in parts: what has come of each is known to whoever goes on, whatever became of the writer."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.errors import Unavailable
from shipway.local import parts as module
from shipway.local.partial import Partial
from shipway.local.parts import Parts

PART = 1000
SIZE = 10 * PART + 7


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", PART)


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    with taken(tmp_path) as partial:
        yield partial


def taken(directory: Path) -> Partial:
    partial = Partial.take(directory / "partial-x")
    assert partial is not None
    return partial


def state(parts: Parts) -> list[int]:
    return [parts.came(number) for number in parts.numbers()]


def test_a_new_file_has_nothing(partial: Partial) -> None:
    parts = Parts(partial, SIZE)
    assert (parts.scattered, parts.total, parts.beginning) == (False, 0, 0)
    assert sum(map(parts.length, parts.numbers())) == SIZE


@pytest.mark.parametrize("length", [1, PART - 1, PART, PART + 1, SIZE - 1, SIZE])
def test_a_beginning_is_known_by_its_length_and_may_be_scattered(partial: Partial, length: int) -> None:
    partial.append(os.urandom(length))
    parts = Parts(partial, SIZE)
    assert (parts.scattered, parts.total, parts.beginning) == (False, length, length)
    parts.scatter()
    again = Parts(partial, SIZE)
    assert (again.scattered, again.total, again.beginning) == (True, length, length)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_noted_is_there_the_next_time(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(SIZE)
    came = [0] * 11
    with taken(tmp_path) as partial:
        length = chance.choice([0, 1500, SIZE // 2])
        partial.append(data[:length])
        parts = Parts(partial, SIZE)
        parts.scatter()
        came = state(parts)
        for _ in range(chance.randrange(1, 30)):
            number = chance.randrange(len(came))
            more = chance.randint(0, parts.length(number) - came[number])
            at = parts.start(number) + came[number]
            partial.write_at(data[at : at + more], at)
            came[number] += more
            parts.note(number, came[number])
    with taken(tmp_path) as partial:
        parts = Parts(partial, SIZE)
        assert state(parts) == came
        assert parts.total == sum(came)
        beginning = parts.gather()
        assert (tmp_path / "partial-x").read_bytes() == data[:beginning]
        partial.append(data[beginning:])
        assert Parts(partial, SIZE).beginning == SIZE
    assert (tmp_path / "partial-x").read_bytes() == data


@pytest.mark.parametrize("size", [1, 500, SIZE - 1, SIZE - PART])
def test_a_file_of_another_size_is_begun_again(partial: Partial, size: int) -> None:
    partial.append(os.urandom(SIZE))
    parts = Parts(partial, SIZE)
    parts.scatter()
    for there in (partial.size(), SIZE):
        os.truncate(partial.file.fileno(), there)
        shorter = Parts(partial, size)
        assert (shorter.scattered, shorter.total, partial.size()) == (False, 0, 0)


def test_numbers_that_cannot_be_are_not_believed(partial: Partial) -> None:
    parts = Parts(partial, SIZE)
    parts.scatter()
    parts.note(10, 8)
    assert Parts(partial, SIZE).total == 0
    assert partial.size() == 0


def test_a_size_that_is_a_claim_costs_nothing(partial: Partial) -> None:
    parts = Parts(partial, 1 << 40)
    parts.scatter()
    parts.note(0, 1)
    assert Parts(partial, 1 << 40).total == 1
    assert (os.fstat(partial.file.fileno()).st_blocks * 512) < 100_000


def test_nothing_is_left_where_nothing_came(tmp_path: Path) -> None:
    with taken(tmp_path) as partial:
        parts = Parts(partial, SIZE)
        parts.scatter()
        parts.leave()
    assert os.listdir(tmp_path) == []


def test_a_size_beyond_what_a_file_can_hold_is_refused(partial: Partial) -> None:
    for size in (1 << 62, (1 << 63) - 1, 1 << 70):
        with pytest.raises(Unavailable, match="cannot be written"):
            Parts(partial, size).scatter()
