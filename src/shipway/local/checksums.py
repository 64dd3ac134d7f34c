"""Content checksums of local refs, and what is kept of them: the records of a layer's files, in the database.

For each layer that a checksum looked at there is a list of what it changes (`local/changes.py`), with the digest of
every record that was computed so far. Trees are put together from these lists (`local/layered.py`), so a child
reads only files of its own layer, a merge none, and nobody a file twice. A list goes with its layer's record.

Of remote layers the digests are kept under the digest of their table of contents, which settles entries
and contents; those not used for longest go when there are more than `LIMIT` bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import zstandard

from shipway.errors import Corrupt
from shipway.local.changes import Changes, LocatedEntry, Row
from shipway.local.database import Database
from shipway.local.layered import LayeredTree
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.trees.checksum import PREFIX, Checksums, bare_record, header, raw, record
from shipway.trees.entry import Entry, LocalTree, OpenFile

LIMIT = 64 << 20
"""Bytes kept for remote layers."""
PART = 1 << 20
"""Bytes of digests that are kept together."""


def local_checksums(store: Store, ref: Record) -> Checksums:
    """Return the checksums of a record's tree. Layers that were never looked at are listed now, none is read."""
    records = _LocalRecords(store, ref)
    return Checksums(records.tree, records.digests, records.tree.walk)


class RemoteDigests:
    """The digests of records of remote layers that this store remembers."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def load(self, table: str) -> bytearray:
        """Return what is known of the layer whose table of contents has the digest `table`.

        These are the digests of the records of its entries, one after the other in its order, zeros for one that is
        not known; what comes after the end is not either.
        """
        found = bytearray()
        begin, end = f"{table}/", f"{table}0"  # the character after it
        try:
            with self._database.write() as db:
                rows = db.execute("SELECT layer, data FROM checksums WHERE layer > ? AND layer < ?", (begin, end))
                for name, data in rows:
                    start = PART * int(name.removeprefix(begin))
                    digests = zstandard.ZstdDecompressor().decompress(data)
                    found.extend(bytes(max(0, start - len(found))))
                    found[start : start + len(digests)] = digests
                db.execute("UPDATE checksums SET used = ? WHERE layer > ? AND layer < ?", (time.time_ns(), begin, end))
        except zstandard.ZstdError as error:
            raise Corrupt(f"kept checksums cannot be read: {error}", where=str(self._database.path)) from error
        return found

    def save(self, table: str, digests: bytearray, parts: Iterable[int]) -> None:
        """Remember those `parts` of all that is known of a layer that have changed; each has `PART` bytes."""
        with self._database.write() as db:
            for part in parts:
                data = zstandard.ZstdCompressor(level=1).compress(digests[PART * part : PART * (part + 1)])
                values = (f"{table}/{part}", data, time.time_ns())
                db.execute("INSERT OR REPLACE INTO checksums VALUES (?, NULL, ?, ?)", values)
            db.execute(
                "DELETE FROM checksums WHERE layer IN (SELECT layer FROM (SELECT layer, sum(length(data))"
                " OVER (ORDER BY used DESC, layer) AS total FROM checksums WHERE record IS NULL) WHERE total > ?)",
                (LIMIT,),
            )


class _LocalRecords:
    """The records of the objects of one tree."""

    def __init__(self, store: Store, ref: Record) -> None:
        self._store = store
        self._ref = ref
        self._layers = [Changes.load(store.database, layer.id) or _list(store, layer) for layer in store.layers(ref)]
        self.tree = LayeredTree(self._layers)

    def digests(self, entries: Iterable[Entry]) -> Iterator[str]:
        """Yield the digests of the records of entries of the tree; files are read for those not known."""
        with ExitStack() as stack:
            stack.callback(self._save)
            tree: LocalTree | None = None
            for entry in entries:
                if not isinstance(entry, LocatedEntry):
                    yield bare_record(entry)
                    continue
                row = entry.place.row
                if not row.digest:
                    tree = tree or stack.enter_context(self._store.tree(self._ref))
                    fd = tree.open(entry.path)
                    try:
                        digest = record(row.header, OpenFile(fd), row.size, entry.path)
                    finally:
                        os.close(fd)
                    entry.place.known(raw(digest))
                yield PREFIX + row.digest.hex()

    def _save(self) -> None:
        for layer in self._layers:
            layer.save()


def _list(store: Store, layer: Record) -> Changes:
    """Return what a layer changes; nothing is read but what the driver needs to tell."""
    return Changes.keep(store.database, layer.id, map(kept_row, store.driver.changes(store.own_chain(layer))))


def kept_row(entry: Entry) -> Row:
    """Return as much of a layer's entry as is kept."""
    link = os.fsencode(entry.link) if entry.link else b""
    row = Row(os.fsencode(entry.path), entry.kind, link=link, dev=entry.dev)
    if entry.size:
        row.size, row.header = entry.size, header(entry)
    elif entry.kind not in ("hardlink", "whiteout", "opaque"):
        row.digest = raw(bare_record(entry))
    return row
