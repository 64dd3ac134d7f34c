"""Entries that are listed now and looked at later, of trees that may have any number of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

import msgspec
import zstandard

from shipway.trees.entry import Entry

_BLOCK = 512
"""Entries that are packed, and unpacked, at a time."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Entry])


class PackedEntries(Collection[Entry]):
    """Entries in order, made anew from ten bytes each time they are gone through, where one takes 300. Immutable."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Keep what `entries` yields."""
        self._count = 0
        self.size = 0
        """The bytes of all files."""
        self._blocks = list(self._packed(iter(entries)))

    def _packed(self, entries: Iterator[Entry]) -> Iterator[tuple[bool, bytes]]:
        """Yield blocks, and of each whether its paths had to be put in other words, since they are not UTF-8."""
        compressor = zstandard.ZstdCompressor(level=1)

        def compress(data: bytes) -> bytes:
            return bytes(memoryview(compressor.compress(data)))  # which takes the room of the worst case for its result

        while block := list(islice(entries, _BLOCK)):
            self._count += len(block)
            self.size += sum(entry.size for entry in block)
            try:
                yield False, compress(_encoder.encode(block))
            except UnicodeEncodeError:
                yield True, compress(_encoder.encode([_translated(entry, "utf-8", "latin-1") for entry in block]))

    def __iter__(self) -> Iterator[Entry]:
        decompress = zstandard.ZstdDecompressor().decompress
        for translated, block in self._blocks:
            entries = _decoder.decode(decompress(block))
            yield from (_translated(entry, "latin-1", "utf-8") for entry in entries) if translated else entries

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry: object) -> bool:
        return any(one == entry for one in self)


def _translated(entry: Entry, from_encoding: str, to_encoding: str) -> Entry:
    """Return an entry whose path, link and names of attributes stand for the same bytes in another encoding."""

    def translated(text: str) -> str:
        return text.encode(from_encoding, "surrogateescape").decode(to_encoding, "surrogateescape")

    xattrs = {translated(name): value for name, value in entry.xattrs.items()}
    return msgspec.structs.replace(entry, path=translated(entry.path), link=translated(entry.link), xattrs=xattrs)
