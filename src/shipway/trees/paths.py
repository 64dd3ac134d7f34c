"""Paths and kinds of many entries, in little more than their own bytes, and found by bisection."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from operator import lt
from typing import get_args, overload

from shipway.trees.entry import Kind

_KINDS: tuple[Kind, ...] = get_args(Kind)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_SWAP = bytes.maketrans(b"\0/", b"/\0")
"""Makes sort keys of paths, and paths of sort keys; see `shipway.trees.entry.path_key`."""


_MANY = 4096
"""Sort keys that are made at a time."""


class PackedPaths(Sequence[str]):
    """Paths in the order they came in. None has a NUL."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """Begin with these."""
        self._keys = bytearray()
        self._ends = array("I", [0])
        self._last = b""
        self._rising = True
        self._order: array[int] | None = None
        self.extend(list(paths))

    def extend(self, paths: Sequence[str]) -> None:
        """Take more; many at a time cost less each."""
        if not paths:
            return
        keys = os.fsencode("\0".join(paths)).translate(_SWAP).split(b"/")
        if self._rising:
            first = not len(self) or self._last < keys[0]
            self._rising = first and all(map(lt, keys, islice(keys, 1, None)))
            self._last = keys[-1]
        self._ends.extend(islice(accumulate(map(len, keys), initial=len(self._keys)), 1, None))
        self._keys += b"".join(keys)
        self._order = None

    def key(self, index: int) -> bytes:
        """Return the sort key of a path."""
        return bytes(self._keys[self._ends[index] : self._ends[index + 1]])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return os.fsdecode(self.key(index).translate(_SWAP))

    @property
    def order(self) -> Sequence[int]:
        """The indexes in the order of paths; of equal paths in the order they came in."""
        if self._rising:
            return range(len(self))
        if self._order is None:
            self._order = array("I", sorted(range(len(self)), key=self.key))
        return self._order

    def keys(self) -> Iterator[bytes]:
        """Yield the sort keys in their order."""
        if not self._rising:
            yield from map(self.key, self.order)
            return
        for start in range(0, len(self), _MANY):
            ends = self._ends[start : start + _MANY + 1]
            data = bytes(self._keys[ends[0] : ends[-1]])
            base = ends[0]
            yield from (data[one - base : following - base] for one, following in pairwise(ends))

    def find(self, key: bytes, start: int = 0) -> int:
        """Return the first place in the order, from `start` on, whose sort key is not below `key`."""
        order = self.order
        return bisect_left(range(len(order)), key, lo=start, key=lambda place: self.key(order[place]))

    def twice(self) -> list[int]:
        """Return the indexes of all paths that come more than once."""
        if self._rising:
            return []
        found: set[int] = set()
        last, before = -1, b""
        for index, key in zip(self.order, self.keys(), strict=True):
            if key == before and last >= 0:
                found |= {last, index}
            last, before = index, key
        return sorted(found)


class PackedKinds(Sequence[Kind]):
    """Kinds of entries."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        """Begin with these."""
        self._codes = bytearray(map(_CODES.__getitem__, kinds))

    def append(self, kind: Kind) -> None:
        """Take one more."""
        self._codes.append(_CODES[kind])

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> Kind: ...
    @overload
    def __getitem__(self, index: slice) -> list[Kind]: ...
    def __getitem__(self, index: int | slice) -> Kind | list[Kind]:
        if isinstance(index, slice):
            return [_KINDS[code] for code in self._codes[index]]
        return _KINDS[self._codes[index]]

    def all(self, kind: Kind) -> list[int]:
        """Return the indexes of all entries of a kind."""
        code = _CODES[kind]
        if code not in self._codes:
            return []
        return [index for index, one in enumerate(self._codes) if one == code]
