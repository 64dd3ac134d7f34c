"""A blob's file that is written at several places at a time, and what of it is there.

The file is as long as the blob, and behind it a table says of each part of `PART` bytes how many have come from its
beginning on. A number is written after the bytes that it is about, and lies within a page: whoever is killed, at
whatever instant, leaves numbers that are right or too small. (A machine that loses its power may leave others; the
blob's digest tells, as it does of all that came.) The table goes when all is there; a file that is no longer than the
blob has none, and is the blob's beginning.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator

from shipway.local.blobs import Ingest

PART = 16 << 20
"""Bytes of a part: what one connection asks for at a time."""
_MAGIC = b"parts 1\n"
_ALIGNED = 8
_COUNT = 4


class Parts:
    """What has come of the blob in an ingest's file. Each part is written by one thread at a time."""

    def __init__(self, ingest: Ingest, size: int) -> None:
        """Look at the file of a blob of `size` bytes; what is neither its beginning nor parts of it is thrown away."""
        self._ingest = ingest
        self.size = size
        self.part = PART
        self._place = size + -size % _ALIGNED
        self._came: dict[int, int] = {}
        """Bytes by parts; not of those of which there are none: a size is but what a manifest claims."""
        there = ingest.size()
        self.scattered = there > size
        """Whether there is a table, and the file may have holes."""
        if self.scattered:
            self._load(there)
        else:
            self._set_beginning(there)

    def _load(self, there: int) -> None:
        fd = self._ingest.file.fileno()
        most = len(_MAGIC) + _COUNT * -(-self.size // self.part)
        table = os.pread(fd, max(0, min(there - self._place, most)), self._place)
        counts = array("I", table[len(_MAGIC) : len(table) - len(table) % _COUNT])
        self._came = {number: count for number, count in enumerate(counts) if count}
        if not table.startswith(_MAGIC) or any(self.length(number) < count for number, count in self._came.items()):
            self._ingest.begin_again()
            self._came = {}
            self.scattered = False

    def _set_beginning(self, length: int) -> None:
        self._came = {start // self.part: min(self.part, length - start) for start in range(0, length, self.part)}

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of all parts."""
        return iter(range(-(-self.size // self.part)))

    def start(self, number: int) -> int:
        """Return where in the blob a part begins."""
        return number * self.part

    def length(self, number: int) -> int:
        """Return how many bytes a part has; none if it is not one of the blob's."""
        return max(0, min(self.part, self.size - self.start(number)))

    def came(self, number: int) -> int:
        """Return how many bytes of a part are there, from its beginning on."""
        return self._came.get(number, 0)

    @property
    def touched(self) -> int:
        """The number of the last part of which there is something, and one; 0 if there is none."""
        return max(self._came, default=-1) + 1

    @property
    def total(self) -> int:
        """How many bytes are there."""
        return sum(self._came.values())

    @property
    def beginning(self) -> int:
        """How many bytes are there from the blob's beginning on."""
        at = 0
        for number in self.numbers():
            at += self.came(number)
            if self.came(number) < self.length(number):
                break
        return at

    def scatter(self) -> None:
        """Have a table, so that parts can be written in any order."""
        if not self.scattered:
            counts = array("I", (self.came(number) for number in range(len(self._came))))
            self._ingest.write_at(_MAGIC + counts.tobytes(), self._place)
            self.scattered = True

    def note(self, number: int, came: int) -> None:
        """Say that so many bytes of a part are there, which were written before."""
        self._came[number] = came
        self._ingest.write_at(came.to_bytes(_COUNT, sys.byteorder), self._place + len(_MAGIC) + number * _COUNT)

    def gather(self) -> int:
        """Keep only the blob's beginning, to be gone on with by appending; return how many bytes that is."""
        beginning = self.beginning
        self._ingest.cut(beginning)
        self._set_beginning(beginning)
        self.scattered = False
        return beginning

    def leave(self) -> None:
        """Leave nothing where nothing came."""
        if self.scattered and not self._came:
            self._ingest.begin_again()
            self.scattered = False
