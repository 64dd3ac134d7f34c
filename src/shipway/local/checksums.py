"""Content checksums of local refs, and what is kept of them: the records of a layer's files, in the database.

For each layer that a checksum looked at there is a list of what it changes, with the digest of every record
that was computed so far. Trees are put together from these lists, so a child reads only files of
its own layer, a merge none, and nobody a file twice. A list goes with its layer's record.

Of remote layers the digests are kept under the digest of their table of contents, which settles entries
and contents; those not used for longest go when there are more than `LIMIT` bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
import zstandard

from shipway.errors import Corrupt
from shipway.local.database import Database
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.trees.checksum import Checksums, bare_record, header, record
from shipway.trees.entry import Entry, Kind, OpenFile
from shipway.trees.merged import MergedTree

LIMIT = 64 << 20
"""Bytes kept for remote layers."""
_PREFIX = "sha256:"
_T = TypeVar("_T")


class _Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """An entry of a layer. Of a file with content whose record was not computed yet, the header and size are kept."""

    path: bytes
    kind: Kind
    digest: bytes = b""
    link: bytes = b""
    dev: tuple[int, int] = (0, 0)
    size: int = 0
    header: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_rows = msgspec.msgpack.Decoder(list[_Row])
_digests = msgspec.msgpack.Decoder(dict[bytes, bytes])


def local_checksums(store: Store, ref: Record) -> Checksums:
    """Return the checksums of a record's tree. Layers that were never looked at are listed now, none is read."""
    records = _LocalRecords(store, ref)
    return Checksums(records.tree, records.digests)


class RemoteDigests:
    """The digests of records of remote layers that this store remembers."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def load(self, table: str) -> dict[str, str]:
        """Return what is known of the layer whose table of contents has the digest `table`: digests by path."""
        with self._database.write() as db:
            db.execute("UPDATE checksums SET used = ? WHERE layer = ?", (time.time_ns(), table))
            data = _load(self._database, table)
        if data is None:
            return {}
        found = _decoded(_digests, data, self._database)
        return {os.fsdecode(path): _PREFIX + digest.hex() for path, digest in found.items()}

    def save(self, table: str, digests: Mapping[str, str]) -> None:
        """Remember `digests`, all that is known of a layer."""
        rows = {os.fsencode(path): _raw(digest) for path, digest in digests.items()}
        data = _compressed(rows)
        with self._database.write() as db:
            db.execute("INSERT OR REPLACE INTO checksums VALUES (?, NULL, ?, ?)", (table, data, time.time_ns()))
            db.execute(
                "DELETE FROM checksums WHERE layer IN (SELECT layer FROM (SELECT layer, sum(length(data))"
                " OVER (ORDER BY used DESC, layer) AS total FROM checksums WHERE record IS NULL) WHERE total > ?)",
                (LIMIT,),
            )


class _Layer:
    """What a layer changes, and the records of it that are known."""

    def __init__(self, record_id: str, rows: Sequence[_Row]) -> None:
        self.record_id = record_id
        self.rows = rows
        self.changed = False
        self.entries = [
            Entry(path=os.fsdecode(row.path), kind=row.kind, link=os.fsdecode(row.link), dev=row.dev) for row in rows
        ]
        self.by_path = {
            entry.path: row for entry, row in zip(self.entries, rows, strict=True) if row.digest or row.header
        }


class _LocalRecords:
    """The records of the objects of one tree."""

    def __init__(self, store: Store, ref: Record) -> None:
        self._store = store
        self._ref = ref
        self._layers = [_read(store, layer.id) or _list(store, layer) for layer in store.layers(ref)]
        self.tree = MergedTree([layer.entries for layer in self._layers], ref.id)

    def digests(self, entries: Sequence[Entry]) -> list[str]:
        """Return the digests of the records of entries of the tree; files are read for those not known."""
        found = [self._known(entry) for entry in entries]
        lacking = [(entry, row) for entry, row in zip(entries, found, strict=True) if isinstance(row, _Row)]
        if lacking:
            self._compute([(entry, row) for entry, row in lacking if not row.digest])
        self._save()
        return [_PREFIX + row.digest.hex() if isinstance(row, _Row) else row for row in found]

    def _known(self, entry: Entry) -> _Row | str:
        number, path = self.tree.origin_of(entry)
        return self._layers[number].by_path[path] if number >= 0 else bare_record(entry)

    def _compute(self, lacking: Sequence[tuple[Entry, _Row]]) -> None:
        if not lacking:
            return
        with self._store.tree(self._ref) as tree:
            for entry, row in lacking:
                if row.digest:  # another name of a file that was read a moment ago
                    continue
                fd = tree.open(entry.path)
                try:
                    row.digest = _raw(record(row.header, OpenFile(fd), row.size, entry.path))
                finally:
                    os.close(fd)
                row.header = b""
                self._layers[self.tree.origin_of(entry)[0]].changed = True

    def _save(self) -> None:
        for layer in self._layers:
            if layer.changed:
                _write(self._store, layer)
                layer.changed = False


def _read(store: Store, record_id: str) -> _Layer | None:
    data = _load(store.database, record_id)
    if data is None:
        return None
    rows = _decoded(_rows, data, store.database)
    return _Layer(record_id, rows)


def _list(store: Store, layer: Record) -> _Layer:
    """Return what a layer changes; nothing is read but what the driver needs to tell."""
    made = _Layer(layer.id, [_row(entry) for entry in store.driver.changes(store.own_chain(layer))])
    made.changed = True
    return made


def _row(entry: Entry) -> _Row:
    link = os.fsencode(entry.link) if entry.link else b""
    row = _Row(os.fsencode(entry.path), entry.kind, link=link, dev=entry.dev)
    if entry.size:
        row.size, row.header = entry.size, header(entry)
    elif entry.kind not in ("hardlink", "whiteout", "opaque"):
        row.digest = _raw(bare_record(entry))
    return row


def _write(store: Store, layer: _Layer) -> None:
    data = _compressed(layer.rows)
    with store.database.write() as db:
        db.execute(
            "INSERT OR REPLACE INTO checksums SELECT id, id, ?, ? FROM records WHERE id = ?",
            (data, time.time_ns(), layer.record_id),
        )


def _load(database: Database, layer: str) -> bytes | None:
    rows = database.read("SELECT data FROM checksums WHERE layer = ?", layer)
    return rows[0][0] if rows else None


def _compressed(rows: object) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(_encoder.encode(rows))


def _decoded(decoder: msgspec.msgpack.Decoder[_T], data: bytes, database: Database) -> _T:
    try:
        return decoder.decode(zstandard.ZstdDecompressor().decompress(data))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise Corrupt(f"kept checksums cannot be read: {error}", where=str(database.path)) from error


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix(_PREFIX))
