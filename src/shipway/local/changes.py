"""What layers change, as it is kept for content checksums: in the database, by blocks, and looked at one at a time.

A row has no more of an entry than a checksum needs, and the digest of its record once that was computed. Rows are
in the order of paths, so what is at a path is found by looking into a block or two, and only blocks that
changed are written.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Self

import msgspec
import zstandard

from shipway.errors import Corrupt
from shipway.local.database import Database
from shipway.trees.entry import Entry, Kind

_BLOCK = 256
"""Rows in a block: some 10 KB with digests."""
_RECENT = 2
"""Blocks of a layer that are at hand: the one that is gone through, and one that was looked into."""
_UNSAVED = 16
"""Blocks of a layer that may wait to be written."""
_LEVEL = 3


class Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """An entry of a layer. Of a file with content whose record was not computed yet, the header and size are kept."""

    path: bytes
    kind: Kind
    digest: bytes = b""
    link: bytes = b""
    dev: tuple[int, int] = (0, 0)
    size: int = 0
    header: bytes = b""

    @property
    def key(self) -> bytes:
        """The sort key of its path."""
        return self.path.replace(b"/", b"\0")

    @property
    def removes(self) -> bool:
        """Whether it says of a name that it is gone; a device 0:0 is overlayfs' own way to say so."""
        return self.kind == "whiteout" or (self.kind == "char" and self.dev == (0, 0))


class Block:
    """Some rows of a layer, and their sort keys."""

    def __init__(self, number: int, rows: list[Row]) -> None:
        self.number = number
        self.rows = rows
        self.keys = [row.key for row in rows]


class Place(NamedTuple):
    """A row of a layer, and the block that it is in."""

    layer: Changes
    block: Block
    row: Row

    def known(self, digest: bytes) -> None:
        """Note the digest of the row's record."""
        self.row.digest = digest
        self.row.header = b""
        self.layer.has_changed(self.block)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Row])


class Changes:
    """What one layer changes. Used by one thread at a time."""

    def __init__(self, database: Database, record_id: str, firsts: list[bytes]) -> None:
        """Look at the blocks that begin with the keys `firsts`."""
        self._database = database
        self._record_id = record_id
        self._firsts = firsts
        self._recent: dict[int, Block] = {}
        self._changed: dict[int, Block] = {}

    @classmethod
    def load(cls, database: Database, record_id: str) -> Self | None:
        """Return what is kept of a record's layer, or None if it was never listed."""
        firsts = database.read("SELECT first FROM changes WHERE record = ? ORDER BY first", record_id)
        return cls(database, record_id, [first for (first,) in firsts]) if firsts else None

    @classmethod
    def keep(cls, database: Database, record_id: str, rows: Iterable[Row], *, block_size: int = _BLOCK) -> Self:
        """Keep what a layer changes."""
        rows = iter(rows)
        blocks: list[tuple[str, bytes, bytes]] = []
        while (block := list(islice(rows, block_size))) or not blocks:
            blocks.append((record_id, block[0].key if blocks else b"", _packed(block)))
        with database.write() as db:
            db.executemany("INSERT OR REPLACE INTO changes SELECT id, ?2, ?3 FROM records WHERE id = ?1", blocks)
        return cls(database, record_id, [first for _, first, _ in blocks])

    def has_changed(self, block: Block) -> None:
        """Have a block written, with others, in a while."""
        self._changed[block.number] = block
        if len(self._changed) > _UNSAVED:
            self.save()

    def save(self) -> None:
        """Write the blocks in which digests became known."""
        if self._changed:
            blocks = [
                (_packed(block.rows), self._record_id, self._firsts[number]) for number, block in self._changed.items()
            ]
            with self._database.write() as db:
                db.executemany("UPDATE changes SET data = ? WHERE record = ? AND first = ?", blocks)
            self._changed.clear()

    def scan(self, key: bytes = b"") -> Iterator[tuple[bytes, Place]]:
        """Yield the rows from the sort key `key` on, with theirs."""
        number = max(bisect_left(self._firsts, key) - 1, 0)
        block = self._block(number)
        start = bisect_left(block.keys, key)
        while True:
            for index in range(start, len(block.rows)):
                yield block.keys[index], Place(self, block, block.rows[index])
            number, start = number + 1, 0
            if number == len(self._firsts):
                return
            block = self._block(number)

    def find(self, key: bytes) -> list[Place]:
        """Return the rows with a sort key: one, or a directory's own and that it is opaque."""
        found = []
        for one, place in self.scan(key):
            if one != key:
                break
            found.append(place)
        return found

    def _block(self, number: int) -> Block:
        block = self._recent.pop(number, None) or self._changed.get(number) or self._read(number)
        while len(self._recent) >= _RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[number] = block
        return block

    def _read(self, number: int) -> Block:
        found = self._database.read(
            "SELECT data FROM changes WHERE record = ? AND first = ?", self._record_id, self._firsts[number]
        )
        try:
            ((data,),) = found
            return Block(number, _decoder.decode(zstandard.ZstdDecompressor().decompress(data)))
        except (ValueError, zstandard.ZstdError, msgspec.DecodeError) as error:
            raise Corrupt(f"kept checksums cannot be read: {error}", where=str(self._database.path)) from error


def entry_of(place: Place, target: Place) -> LocatedEntry:
    """Return the entry of a row; of a hard link with what it is a name of, its `target`."""
    row = target.row
    return LocatedEntry(
        path=os.fsdecode(place.row.path), kind=row.kind, link=os.fsdecode(row.link), dev=row.dev, place=target
    )


class LocatedEntry(Entry, frozen=True, kw_only=True, gc=False):
    """An entry with as much as is kept of it, and where its record is."""

    place: Place


def _packed(rows: list[Row]) -> bytes:
    return bytes(memoryview(zstandard.ZstdCompressor(level=_LEVEL).compress(_encoder.encode(rows))))
