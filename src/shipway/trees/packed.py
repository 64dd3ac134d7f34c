"""Entries that are listed now and looked at later, of trees that may have any number of them."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from types import GenericAlias
from typing import Generic, TypeVar

import msgspec
import zstandard

from shipway.trees.entry import Entry
from shipway.trees.spool import Spool

BLOCK = 256
"""Entries that are packed, and unpacked, at a time."""
_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T", bound=Entry)


class PackedEntries(Collection[T], Generic[T]):
    """Entries in order, made anew from ten bytes each time they are gone through, where one takes 300."""

    def __init__(self, entries: Iterable[T] = (), kind: type[T] | None = None) -> None:
        """Keep what `entries` yields, which is of the class `kind`, by default `Entry`."""
        self._decoder = msgspec.msgpack.Decoder(GenericAlias(list, (kind or Entry,)))
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._last: list[T] = []
        self._full = 0
        """How many are in blocks."""
        self.size = 0
        """The bytes of all files."""
        self._data = Spool()
        """Blocks of entries, one after the other."""
        self._starts = array("Q", [0])
        self._translated: set[int] = set()
        """Blocks whose paths had to be put in other words, since they are not UTF-8."""
        for entry in entries:
            self.add(entry)

    def add(self, entry: T) -> None:
        """Keep one more."""
        self._last.append(entry)
        self.size += entry.size
        if len(self._last) == BLOCK:
            self._pack(self._last)
            self._last = []

    def _pack(self, block: list[T]) -> None:
        try:
            data = _encoder.encode(block)
        except UnicodeEncodeError:
            self._translated.add(len(self._starts) - 1)
            data = _encoder.encode([_translated(entry, "utf-8", "latin-1") for entry in block])
        self._data.add(self._compressor.compress(data))
        self._starts.append(len(self._data))
        self._full += len(block)

    def block(self, number: int) -> list[T]:
        """Return the entries of a block, of `BLOCK` each but for the last."""
        if number == len(self._starts) - 1:
            return self._last
        data = self._data.read(self._starts[number], self._starts[number + 1])
        entries: list[T] = self._decoder.decode(zstandard.ZstdDecompressor().decompress(data))
        if number in self._translated:
            return [_translated(entry, "latin-1", "utf-8") for entry in entries]
        return entries

    def blocks(self) -> Iterator[list[T]]:
        """Yield all blocks."""
        return map(self.block, range(len(self._starts)))

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.blocks())

    def pick(self, numbers: Iterable[int]) -> Iterator[T]:
        """Yield the entries with these numbers, from 0 on; neighbours one after the other cost least."""
        last, block = -1, list[T]()
        for number in numbers:
            if number // BLOCK != last:
                last = number // BLOCK
                block = self.block(last)
            yield block[number % BLOCK]

    def __len__(self) -> int:
        return self._full + len(self._last)

    def __contains__(self, entry: object) -> bool:
        return any(one == entry for one in self)


def picked(entries: Collection[T], numbers: Iterable[int]) -> Iterator[T]:
    """Yield the entries of a sequence, or of packed ones, with these numbers."""
    if isinstance(entries, PackedEntries):
        return entries.pick(numbers)
    assert isinstance(entries, Sequence)
    return map(entries.__getitem__, numbers)


def _translated(entry: T, from_encoding: str, to_encoding: str) -> T:
    """Return an entry whose paths, link and names of attributes stand for the same bytes in another encoding."""

    def translated(text: str) -> str:
        return text.encode(from_encoding, "surrogateescape").decode(to_encoding, "surrogateescape")

    changed: dict[str, object] = {
        name: translated(value)
        for name in entry.__struct_fields__
        if isinstance(value := getattr(entry, name), str) and not value.isascii()
    }
    xattrs = {translated(name): value for name, value in entry.xattrs.items()}
    return msgspec.structs.replace(entry, **changed, xattrs=xattrs)
