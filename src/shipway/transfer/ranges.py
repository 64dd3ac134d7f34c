"""Which ranges of a blob to ask for, given the pieces of it that are needed.

The cost of reading is taken to be that of its bytes plus, for each request, that of
`REQUEST_COST` bytes more. A registry of moderate speed (docker-registry 2.8) answers some 430 small ranges
a second and one stream at several hundred MB/s, which puts a request at about as much as a megabyte; over
a distant link a round trip of 20 ms at 200 Mbit/s makes it half of that. So a gap between two needed
pieces is read and thrown away while it costs less than asking again would, and when most of the way through
a blob would be read in ranges it is read in one go: servers, caches and proxies do that best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from shipway.trees.entry import Chunk

REQUEST_COST = 512 << 10
"""What a request costs, in bytes; the largest gap that is read rather than skipped."""

WHOLE_SHARE = 3
"""If more than one part in this many of a blob would be read, one range spans all that is needed."""

PART = 8 << 20
"""Bytes of a range of chunks after which another one is begun, so that several connections share the work."""


class Range(NamedTuple):
    """The bytes of a blob from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes it is."""
        return self.end - self.start


def plan(needed: Iterable[Range], blob_size: int) -> list[Range]:
    """Return disjoint ranges, in order, that cover all that is needed of a blob of `blob_size` bytes.

    Neighbours are more than `REQUEST_COST` apart. What is needed comes in the order of where it starts. It may
    overlap; empty ranges count for nothing.
    """
    ranges: list[Range] = []
    begin, last = 0, -1
    for start, end in needed:
        if end <= start:
            continue
        if last < 0:
            begin = start
        elif start - last > REQUEST_COST:
            ranges.append(Range(begin, last))
            begin = start
        last = max(last, end)
    if last >= 0:
        ranges.append(Range(begin, last))
    if sum(piece.length for piece in ranges) * WHOLE_SHARE > blob_size:
        return [Range(ranges[0].start, ranges[-1].end)]
    return ranges


def runs(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Yield chunks that have to be fetched, in their order, those together that one range is to bring."""
    found: list[Chunk] = []
    for chunk in chunks:
        if found and not _fits(found, chunk):
            yield found
            found = []
        found.append(chunk)
    if found:
        yield found


def span(chunks: Sequence[Chunk]) -> Range:
    """Return the range from the first of some chunks to the end of the last."""
    return Range(chunks[0].offset, chunks[-1].offset + chunks[-1].length)


def _fits(chunks: Sequence[Chunk], chunk: Chunk) -> bool:
    if (chunk.offset, chunk.length) == (chunks[-1].offset, chunks[-1].length):  # compressed together
        return True
    before = span(chunks)
    return 0 <= chunk.offset - before.end <= REQUEST_COST and chunk.offset + chunk.length - before.start <= PART
