"""What is here of the contents of a layer, of however many files: found out in one pass over them, used in another.

In between a number is kept for each chunk, that says where it is, and those that are nowhere, as numbers too.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from shipway.layers.archive import Followed
from shipway.layers.contents import Contents
from shipway.local.contents import Known
from shipway.local.digests import prefix
from shipway.local.kept import Piece
from shipway.local.store import Store
from shipway.transfer.supply import CLONED, Supply
from shipway.trees.entry import Chunk, Entry

LOOK = 32 << 10
"""Chunks that are looked for at a time: each time goes through the lists of all that is here."""
_KEPT = 1 << 63
"""Begins the number of what was fetched before and kept."""
_WHOLE = 1 << 62
"""Begins the number of what is a part of a file all of whose content is in one place."""
_NOTHING: dict[str, Piece] = {}


class Chunks:
    """Chunks, none of them a hole, in a fourth of the memory."""

    _packed = struct.Struct("<6Q?32s")

    def __init__(self) -> None:
        """Hold none."""
        self._data = bytearray()

    def add(self, chunk: Chunk) -> None:
        """Take one more."""
        until = chunk.until if isinstance(chunk, Followed) else -1
        digest = bytes.fromhex(chunk.digest.removeprefix("sha256:"))
        self._data += self._packed.pack(
            chunk.offset, chunk.length, chunk.start, chunk.size, chunk.inner, until + 1, bool(digest), digest
        )

    def __iter__(self) -> Iterator[Chunk]:
        for offset, length, start, size, inner, until, known, raw in self._packed.iter_unpack(self._data):
            digest = f"sha256:{raw.hex()}" if known else ""
            if until:
                yield Followed(offset, length, start, size, digest, False, inner, until - 1)
            else:
                yield Chunk(offset, length, start, size, digest, False, inner)


class Stock:
    """What is here of a layer's contents."""

    def __init__(self, store: Store, contents: Contents, place: Callable[[Chunk], str], stack: ExitStack) -> None:
        """Know nothing yet; what is taken from the store is held until `stack` is closed.

        `place` gives the digest under which a chunk is kept with what follows it.
        """
        self.missing = Chunks()
        """Those that are not here, once all was looked for."""
        self.supply = Supply(store, contents, places={}, pieces={}, files=(), stack=stack)
        """Gives the chunk that was turned to."""
        self.piece: Piece | None = None
        """Where that is kept with what follows it."""
        self._known = Known(store, stack)
        self._kept = store.kept
        self._place = place
        self._numbers = array("Q")
        """Where each chunk is; 0 for nowhere. Of one that is followed, where the whole is, and where the file is."""
        self._at = 0
        """The number of the next chunk."""
        self._packs: dict[str, int] = {}
        self._pieces = array("Q")
        """Of each piece three numbers: that of its file among those that are kept, its offset and length."""

    def look(self, entries: Iterable[Entry]) -> None:
        """Find out which chunks of `entries` are here."""
        some = _Some()
        for entry in entries:
            whole = prefix(entry.digest) if entry.digest else 0
            for chunk in entry.chunks:
                if not chunk.zeros:
                    some.chunks.append(chunk)
                    some.own.append(prefix(self._place(chunk) if isinstance(chunk, Followed) else chunk.digest))
                    some.whole.append(whole)
            if len(some.own) >= LOOK:
                self._settle(some)
                some = _Some()
        self._settle(some)

    def _settle(self, some: _Some) -> None:
        found = self._known.find({*some.own, *some.whole})
        kept = self._kept.locate(set(some.own) - found.keys())
        numbers = self._numbers
        for chunk, own, whole in zip(some.chunks, some.own, some.whole, strict=True):
            followed = isinstance(chunk, Followed)
            number = found[whole] | _WHOLE if whole in found else found.get(own, 0)
            if followed or not number:
                number, other = (self._keep(kept[own]) if own in kept else 0), number
                if not number:
                    self.missing.add(chunk)
                if followed:
                    numbers.append(number)
                    number = other
            numbers.append(number)

    def _keep(self, piece: Piece) -> int:
        self._pieces.extend((self._packs.setdefault(piece.pack, len(self._packs)), piece.offset, piece.length))
        return _KEPT | len(self._pieces) // 3 - 1

    def follow(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the same entries again; before the next all chunks of one that are no holes have to be turned to."""
        for entry in entries:
            if entry.size >= CLONED and not any(chunk.zeros for chunk in entry.chunks):
                number = self._numbers[self._at + isinstance(entry.chunks[0], Followed)]
                place = self._known.place(number & ~_WHOLE) if number & _WHOLE else None
                if place is not None and place.whole:
                    self.supply.may_clone(entry)
            yield entry

    def turn_to(self, chunk: Chunk, entry: Entry) -> bool:
        """Let `supply` give the next chunk, no hole; return whether it is likely to be here."""
        number = self._numbers[self._at]
        here = number > 0
        self._at += 1
        self.piece = self._piece(number) if number >= _KEPT else None
        pieces = {chunk.digest: self.piece} if self.piece is not None else _NOTHING
        if isinstance(chunk, Followed):
            number, pieces = self._numbers[self._at], _NOTHING
            self._at += 1
        place = self._known.place(number & ~_WHOLE) if 0 < number < _KEPT else None
        digest = entry.digest if number & _WHOLE else chunk.digest
        self.supply.turn_to({digest: place} if place is not None else {}, pieces)
        return here

    def _piece(self, number: int) -> Piece:
        pack, offset, length = self._pieces[3 * (number ^ _KEPT) : 3 * (number ^ _KEPT) + 3]
        return Piece(list(self._packs)[pack], offset, length)


class _Some:
    """Chunks that are looked for at a time, the beginnings of their digests and of those of their files."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.own = array("Q")
        self.whole = array("Q")
