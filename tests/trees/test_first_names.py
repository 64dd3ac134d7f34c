"""Of each inode the first path is known, on little memory."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from support.slope import slope

from shipway.trees.first_names import FirstNames

INODES = st.one_of(st.integers(-5, 5), st.integers(-(1 << 63), (1 << 63) - 1)).filter(bool)


@given(st.lists(st.tuples(INODES, st.text("a/ü\udcff"))))
def test_it_is_the_first_that_was_given(names: list[tuple[int, str]]) -> None:
    first, expected = FirstNames(), dict[int, str]()
    for inode, path in names:
        assert first.first(inode, path) == expected.setdefault(inode, path)


def test_of_many_too() -> None:
    noise = random.Random(1)
    first, expected = FirstNames(), dict[int, str]()
    for number in range(20_000):
        inode = noise.choice((number + 1, noise.randrange(1, 30_000), noise.randrange(1, 1 << 60)))
        path = f"directory/{number}"
        assert first.first(inode, path) == expected.setdefault(inode, path)
    assert all(first.first(inode, "") == path for inode, path in expected.items())


def test_an_inode_takes_a_few_bytes() -> None:
    def job(count: int) -> None:
        names = FirstNames()
        for number in range(1, count):
            names.first(number, f"directory/{number:09}")

    assert slope(job, 20_000, 40_000) < 60
