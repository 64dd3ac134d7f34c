"""Lists of digests that many are looked up in: the first 8 bytes of each, one after the other.

That is a fourth of the room, and enough to look: what is found is checked against the whole digest anyway. Going
through such a list takes a microsecond for 30 digests, so lists need no order, and a store no index over all of them.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterator

_SIZE = 8
_FEW = 16
_START = len("sha256:")


def prefix(digest: str) -> int:
    """Return the first 8 bytes of a digest."""
    return int(digest[_START : _START + 2 * _SIZE], 16)


def prefixes(known: bytes) -> array[int]:
    """Return a list of digests as numbers."""
    keys = array("Q")
    keys.frombytes(known)
    return keys


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
