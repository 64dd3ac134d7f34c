"""Planning ranges: everything needed is covered, little is wasted, few requests are made."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shipway.transfer.ranges import REQUEST_COST, WHOLE_SHARE, Range, plan, runs, span
from shipway.trees.entry import Chunk

MiB = 1 << 20


@st.composite
def needs(draw: st.DrawFn) -> tuple[list[Range], int]:
    """Draw what is needed of a blob, and the blob's size."""
    pieces = draw(
        st.lists(
            st.tuples(st.integers(0, 200 * MiB), st.one_of(st.integers(0, 2000), st.integers(0, 8 * MiB))), max_size=30
        )
    )
    ranges = [Range(offset, offset + length) for offset, length in pieces]
    end = max((piece.end for piece in ranges), default=0)
    return ranges, end + draw(st.integers(0, 2000 * MiB))


@given(needs())
def test_all_that_is_needed_is_covered_by_disjoint_ranges_in_order(case: tuple[list[Range], int]) -> None:
    needed, size = case
    ranges = plan(sorted(needed), size)
    for piece in needed:
        assert not piece.length or any(r.start <= piece.start and piece.end <= r.end for r in ranges)
    assert ranges == sorted(ranges)
    assert all(one.end + REQUEST_COST < two.start for one, two in pairwise(ranges))
    assert all(0 <= r.start < r.end <= size for r in ranges)


@given(needs())
def test_each_range_begins_and_ends_with_something_needed(case: tuple[list[Range], int]) -> None:
    needed, size = case
    ranges = plan(sorted(needed), size)
    assert {r.start for r in ranges} <= {piece.start for piece in needed}
    assert {r.end for r in ranges} <= {piece.end for piece in needed}


@given(needs())
def test_waste_is_bounded(case: tuple[list[Range], int]) -> None:
    """No gap above the cost of a request is read, unless a good part of the blob is read anyway."""
    needed, size = case
    ranges = plan(sorted(needed), size)
    read = sum(r.length for r in ranges)
    useful = sum(piece.length for piece in needed)
    assert read <= useful + REQUEST_COST * len(needed) or len(ranges) == 1


@given(needs())
def test_the_plan_does_not_depend_on_repetition(case: tuple[list[Range], int]) -> None:
    needed, size = case
    assert plan(sorted(needed), size) == plan(sorted(needed + needed), size)


def test_nothing_needed_is_no_request() -> None:
    assert plan([], 100) == []
    assert plan([Range(5, 5)], 100) == []


def test_a_gap_as_dear_as_a_request_is_read_and_a_dearer_one_is_not() -> None:
    first = Range(0, 10)
    near, far = 10 + REQUEST_COST, 11 + REQUEST_COST
    assert plan([first, Range(near, near + 1)], 100 * MiB) == [Range(0, near + 1)]
    assert plan([first, Range(far, far + 1)], 100 * MiB) == [first, Range(far, far + 1)]


def test_a_blob_that_is_mostly_needed_is_read_in_one_go() -> None:
    needed = [Range(10 * MiB, 15 * MiB), Range(40 * MiB, 45 * MiB)]
    assert plan(needed, 10 * MiB * WHOLE_SHARE) == needed
    assert plan(needed, 10 * MiB * WHOLE_SHARE - 1) == [Range(10 * MiB, 45 * MiB)]


def test_chunks_that_are_compressed_together_come_in_one_range() -> None:
    chunks = [Chunk(0, 900, 0, 5, ""), *(Chunk(1000, 100, 0, 10, "", inner=10 * number) for number in range(3))]
    (run,) = runs([*chunks, Chunk(1100, 50, 0, 10, "")])
    assert span(run) == Range(0, 1150)
    assert len(run) == 5


def test_chunks_that_go_back_come_in_ranges_of_their_own() -> None:
    assert len(list(runs([Chunk(1000, 100, 0, 10, ""), Chunk(500, 600, 0, 10, ""), Chunk(500, 600, 0, 10, "")]))) == 2
