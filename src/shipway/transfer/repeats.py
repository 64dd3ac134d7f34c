"""Contents that several files have, to be fetched once, known on a few bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

_PARTS = 256


class Repeats:
    """Which of many files have a content that one before them has.

    Contents go by hashes of 64 bits that nobody who makes layers can foresee; who uses what is found compares.
    """

    def __init__(self) -> None:
        """Know no file yet."""
        self._parts = [(array("q"), array("I")) for _ in range(_PARTS)]
        self._keys: Sequence[int] = ()
        self._numbers: Sequence[int] = ()

    def add(self, content: str, number: int) -> None:
        """Take a file, by its number, and what its content goes by. Numbers have to rise."""
        key = hash(content)
        keys, numbers = self._parts[key % _PARTS]
        keys.append(key)
        numbers.append(number)

    def settle(self) -> bytearray:
        """Return whether each file, by its number, is the first with its content; no more are taken then."""
        first = bytearray(max((numbers[-1] for _, numbers in self._parts if numbers), default=-1) + 1)
        found: list[int] = []
        for keys, numbers in self._parts:
            seen: set[int] = set()
            for key, number in zip(keys, numbers, strict=True):
                if key in seen:
                    found.append(key << 32 | number)
                else:
                    seen.add(key)
                    first[number] = 1
        self._parts = []
        found.sort()
        self._keys = array("q", (one >> 32 for one in found))
        self._numbers = array("I", (one & 0xFFFFFFFF for one in found))
        return first

    def others(self, content: str) -> Sequence[int]:
        """Return the numbers of the files with a content, but for the first."""
        key = hash(content)
        start = bisect_left(self._keys, key)
        end = start
        while end < len(self._keys) and self._keys[end] == key:
            end += 1
        return self._numbers[start:end]
