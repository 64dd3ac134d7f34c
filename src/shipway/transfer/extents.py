"""Where in a blob the files are that are to be read, on 20 bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, takewhile

from shipway.transfer.ranges import Range
from shipway.trees.entry import Entry


class Extents:
    """The bytes of a blob from the first chunk to the last of each of some files, which go by numbers of their own."""

    def __init__(self) -> None:
        """Know no file yet."""
        self._numbers = array("I")
        self._starts = array("Q")
        self._ends = array("Q")
        self._edges: dict[int, tuple[int, int]] = {}
        """Of files of several chunks, by place here, where the first one ends and the last one begins."""

    def add(self, number: int, entry: Entry) -> None:
        """Take one more file."""
        chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
        if len(chunks) > 1:
            self._edges[len(self._numbers)] = chunks[0].offset + chunks[0].length, chunks[-1].offset
        self._numbers.append(number)
        self._starts.append(chunks[0].offset if chunks else 0)
        self._ends.append(chunks[-1].offset + chunks[-1].length if chunks else 0)

    def passes(self) -> Iterator[Pass]:
        """Yield groups of files that each can be read in one movement through the blob.

        Files may share what is compressed together, or the byte in which one piece ends and the next begins. Beyond
        that it is one group, but for a table of contents that has files share their bytes.
        """
        left = self._in_order()
        while left:
            later = array("I")
            at = 0
            last = 0, 0
            for place in left:
                start, end = self._starts[place], self._ends[place]
                first_end, last_start = self._edges.get(place, (end, start))
                if start < at - 1 and (start, first_end) != last and start != end:
                    later.append(place)
                elif end >= at:
                    at, last = end, (last_start, end)
            yield Pass(self, array("I", _without(left, later)) if later else left)
            left = later

    def _in_order(self) -> Sequence[int]:
        """Return the places here in the order of the extents."""
        extents = pairwise(zip(self._starts, self._ends, strict=True))
        places = range(len(self._numbers))
        if all(one <= following for one, following in extents):
            return places
        by_end = sorted(places, key=self._ends.__getitem__)
        return array("I", sorted(by_end, key=self._starts.__getitem__))

    def extents(self, places: Iterable[int]) -> Iterator[Range]:
        """Yield the bytes of the files that are at these places here."""
        return (Range(self._starts[place], self._ends[place]) for place in places)

    def ending(self, places: Iterable[int], end: int) -> array[int]:
        """Return the numbers of the first of these files that end up to there in the blob."""
        ends = self._ends
        return array("I", (self._numbers[place] for place in takewhile(lambda place: ends[place] <= end, places)))


def _without(places: Iterable[int], others: Sequence[int]) -> Iterator[int]:
    """Yield `places` but for some of them, which come in the same order."""
    left = iter(others)
    other = next(left, -1)
    for place in places:
        if place == other:
            other = next(left, -1)
        else:
            yield place


class Pass:
    """Files that can be read in one movement through the blob, in their order."""

    def __init__(self, extents: Extents, places: Sequence[int]) -> None:
        self._extents = extents
        self._places = places
        self._taken = 0

    def extents(self) -> Iterator[Range]:
        """Yield the bytes of each file that was not taken yet."""
        return self._extents.extents(self._left())

    def take(self, end: int) -> array[int]:
        """Return the numbers of the next files that end up to there in the blob."""
        numbers = self._extents.ending(self._left(), end)
        self._taken += len(numbers)
        return numbers

    def _left(self) -> Iterator[int]:
        return map(self._places.__getitem__, range(self._taken, len(self._places)))
