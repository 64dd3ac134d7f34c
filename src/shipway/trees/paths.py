"""Paths and kinds of many entries, in little more than their own bytes, and found by bisection."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from operator import lt
from typing import get_args, overload

import zstandard

from shipway.trees.entry import Kind, path_key
from shipway.trees.spool import Spool

_KINDS: tuple[Kind, ...] = get_args(Kind)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_SWAP = bytes.maketrans(b"\0/", b"/\0")
"""Makes sort keys of paths, and paths of sort keys; see `shipway.trees.entry.path_key`."""


_BLOCK = 256
"""Paths that are packed, and unpacked, at a time."""
_KEPT = 4
"""Unpacked blocks that are kept."""


class PackedPaths(Sequence[str]):
    """Paths in the order they came in, which are kept in the order of paths. None has a NUL."""

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        """Keep the paths of all these lists."""
        self._data = Spool()
        """Blocks of sort keys, compressed, one after the other."""
        self._starts = array("Q", [0])
        self._firsts: list[bytes] = []
        """The first sort key of each block."""
        self._last: list[bytes] = []
        """Sort keys that are in no block yet."""
        self._newest: list[bytes] = []
        """The sort key that came last."""
        self._rising = True
        self._count = 0
        self._next = 0
        """Where a path is looked for first: behind the last one."""
        self.order: Sequence[int] = range(0)
        """The indexes in the order of paths; of equal paths in the order they came in."""
        self._places: Sequence[int] = range(0)
        """The place of each index in the order."""
        compress = zstandard.ZstdCompressor(level=1).compress
        for paths in lists:
            if paths:
                self._take(os.fsencode("\0".join(paths)).translate(_SWAP).split(b"/"), compress)
        self._settle(compress)
        self._block = lru_cache(_KEPT)(partial(_unpacked, self._data, self._starts))

    def _take(self, keys: list[bytes], compress: Callable[[bytes], bytes]) -> None:
        if self._rising:
            self._rising = all(map(lt, chain(self._newest, keys), keys if self._newest else keys[1:]))
        self._newest = keys[-1:]
        self._count += len(keys)
        self._last += keys
        full = len(self._last) // _BLOCK * _BLOCK
        for start in range(0, full, _BLOCK):
            self._firsts.append(self._last[start])
            self._data.add(compress(b"/".join(self._last[start : start + _BLOCK])))
            self._starts.append(len(self._data))
        del self._last[:full]

    def _settle(self, compress: Callable[[bytes], bytes]) -> None:
        """Put all in order."""
        self.order = self._places = range(self._count)
        if self._rising or not self._count:
            return
        keys = list(self.keys())
        order = array("I", sorted(self.order, key=keys.__getitem__))
        places = array("I", bytes(4 * len(order)))
        for place, index in enumerate(order):
            places[index] = place
        self._data, self._starts, self._firsts, self._last, self._count = Spool(), array("Q", [0]), [], [], 0
        for start in range(0, len(order), _BLOCK):
            self._take([keys[index] for index in order[start : start + _BLOCK]], compress)
        self.order, self._places = order, places

    def at(self, place: int) -> bytes:
        """Return the sort key at a place in the order."""
        number, place = divmod(place, _BLOCK)
        return self._block(number)[place] if number < len(self._firsts) else self._last[place]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return os.fsdecode(self.at(self._places[index]).translate(_SWAP))

    def keys(self) -> Iterator[bytes]:
        """Yield the sort keys in their order."""
        for number in range(len(self._firsts)):
            yield from _unpacked(self._data, self._starts, number)
        yield from self._last

    def find(self, key: bytes) -> int:
        """Return the first place in the order whose sort key is not below `key`."""
        number = bisect_left(self._firsts, key)
        if number == len(self._firsts) and (not number or (self._last and self._last[0] < key)):
            return number * _BLOCK + bisect_left(self._last, key)
        number = max(number - 1, 0)
        return number * _BLOCK + bisect_left(self._block(number), key)

    def having(self, path: str) -> Iterator[int]:
        """Yield the indexes of all that are this path."""
        key, place = path_key(path), self._next
        if not (0 < place < self._count and self.at(place - 1) < key == self.at(place)):
            place = self.find(key)
        while place < self._count and self.at(place) == key:
            yield self.order[place]
            self._next = place = place + 1

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and any(True for _ in self.having(path))

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


def _unpacked(data: Spool, starts: Sequence[int], number: int) -> list[bytes]:
    return zstandard.ZstdDecompressor().decompress(data.read(starts[number], starts[number + 1])).split(b"/")


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
