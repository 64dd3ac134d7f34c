"""Lists of digests that many are looked up in: the first 8 bytes of each, one after the other.

That is a fourth of the room, and enough to look: what is found is checked against the whole digest anyway. Going
through such a list takes a microsecond for 30 digests, so lists need no order, and a store no index over all of them.
"""

from __future__ import annotations

import sys
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator

_SIZE = 8
_FEW = 16
_PARTS = 4096
_START = len("sha256:")


def prefix(digest: str) -> int:
    """Return the first 8 bytes of a digest."""
    return int(digest[_START : _START + 2 * _SIZE], 16)


def prefixes(known: bytes) -> array[int]:
    """Return a list of digests as numbers."""
    keys = array("Q")
    keys.frombytes(known)
    return keys


class Prefixes:
    """A set of digests' beginnings that grows, of 8 bytes each where a set would take 80."""

    def __init__(self) -> None:
        """Begin with none."""
        self._parts: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, key: int) -> None:
        """Take one."""
        self._parts[_part(key)].append(key)

    def __contains__(self, key: int) -> bool:
        part = self._parts.get(_part(key))
        return part is not None and key in part


def _part(key: int) -> int:
    """Return a number that nobody who makes contents can foresee, so that they are spread evenly."""
    return hash(key.to_bytes(_SIZE, sys.byteorder)) % _PARTS


def matching(wanted: Collection[int], known: bytes) -> Iterator[tuple[int, int]]:
    """Yield those of `wanted` that the list `known` has, with their places in it."""
    if len(wanted) <= _FEW:
        for key in wanted:
            raw = key.to_bytes(_SIZE, sys.byteorder)
            at = known.find(raw)
            while at >= 0 and at % _SIZE:
                at = known.find(raw, at + 1)
            if at >= 0:
                yield key, at // _SIZE
        return
    keys = prefixes(known)
    if not set(wanted).isdisjoint(keys):
        for index, key in enumerate(keys):
            if key in wanted:
                yield key, index
