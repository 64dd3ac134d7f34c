"""The first name of each file that has several, of trees that may have any number of them."""

from __future__ import annotations

import os
from array import array

from shipway.trees.spool import Spool

_LEAST = 10
"""Binary logarithm of the least number of slots."""
_WORD = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""2 to the 64th, divided by the golden ratio: a multiple of it spreads neighbouring numbers."""
_LENGTH = 4


class FirstNames:
    """Remembers a path for each inode; a table of numbers, since a dictionary and its paths take 250 bytes for each."""

    def __init__(self) -> None:
        """Know none yet."""
        self._count = 0
        self._paths = Spool()
        """Each with its length before it."""
        self._make(_LEAST)

    def _make(self, bits: int) -> None:
        self._shift = 64 - bits
        self._inodes = array("q", bytes(8 << bits))
        """By slot, 0 for none; one that has to go where another is goes into the next that is free."""
        self._places = array("Q", bytes(8 << bits))
        """Where in `_paths` that of each slot is."""

    def first(self, inode: int, path: str) -> str:
        """Return the path that was given for an inode, which is not 0, the first time: this one if it is new."""
        slot = self._slot(inode)
        if self._inodes[slot]:
            return self._path(self._places[slot])
        self._inodes[slot], self._places[slot] = inode, len(self._paths)
        raw = os.fsencode(path)
        self._paths.add(len(raw).to_bytes(_LENGTH, "little") + raw)
        self._count += 1
        if 3 * self._count > 2 * len(self._inodes):
            self._grow()
        return path

    def _slot(self, inode: int) -> int:
        """Return the slot that an inode has, or is to have."""
        slot, inodes = (inode * _SPREAD & _WORD) >> self._shift, self._inodes
        while inodes[slot] not in (0, inode):
            slot = (slot + 1) & (len(inodes) - 1)
        return slot

    def _grow(self) -> None:
        inodes, places = self._inodes, self._places
        self._make(64 - self._shift + 1)
        for inode, place in zip(inodes, places, strict=True):
            if inode:
                slot = self._slot(inode)
                self._inodes[slot], self._places[slot] = inode, place

    def _path(self, place: int) -> str:
        begin = place + _LENGTH
        return os.fsdecode(self._paths.read(begin, begin + int.from_bytes(self._paths.read(place, begin), "little")))
