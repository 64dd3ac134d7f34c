"""Indexes of remote layers that have no table of contents: which one belongs to a layer, and what reading it cost.

An index is made when all of a layer's blob was read and its digest was right, so it is trusted as the blob is. It lies
in `kept/`, where pieces are found by their digests and go when room is wanted; the row here, under the blob's digest,
says which is the blob's. A row whose index is gone is of no use, and the next full read writes another.
"""

from __future__ import annotations

import time

from shipway.layers.index import Index, is_readable
from shipway.local.database import Database
from shipway.local.kept import Kept
from shipway.oci import Descriptor
from shipway.trees.spool import Spool

_MOST = 100_000
"""Rows that are kept, those used last."""


class Indexes:
    """The indexes that a store keeps. Thread-safe."""

    def __init__(self, database: Database, kept: Kept) -> None:
        """Keep indexes in `kept`, and their digests in `database`."""
        self._database = database
        self._kept = kept

    def load(self, layer: Descriptor) -> Index | None:
        """Return the index of a layer, or None."""
        for (digest,) in self._database.read(
            "SELECT digest FROM indexes WHERE blob = ? AND digest != ''", layer.digest
        ):
            data = Spool(self._kept.get(digest))
            if data and data.digest() == digest and is_readable(data, layer):  # and of no earlier form
                return Index(data, layer)
        return None

    def save(self, layer: Descriptor, data: Spool) -> Index:
        """Remember the index of a layer whose blob, all of it, was checked; return it."""
        index = Index(data, layer)
        self._kept.put(index.digest, data)
        with self._database.write() as db:
            db.execute(
                "INSERT INTO indexes VALUES (?, ?, 0, ?)"
                " ON CONFLICT (blob) DO UPDATE SET digest = excluded.digest, used = excluded.used",
                (layer.digest, index.digest, time.time_ns()),
            )
            db.execute(
                "DELETE FROM indexes WHERE blob NOT IN (SELECT blob FROM indexes ORDER BY used DESC LIMIT ?)", (_MOST,)
            )
        return index

    def spend(self, layer: Descriptor, size: int) -> None:
        """Note that `size` bytes of a layer were read for want of an index."""
        with self._database.write() as db:
            db.execute(
                "INSERT INTO indexes VALUES (?, '', ?, ?)"
                " ON CONFLICT (blob) DO UPDATE SET spent = spent + excluded.spent, used = excluded.used",
                (layer.digest, size, time.time_ns()),
            )

    def spent(self, layer: Descriptor) -> int:
        """Return how many bytes of a layer were read for want of an index."""
        rows = self._database.read("SELECT spent FROM indexes WHERE blob = ?", layer.digest)
        return int(rows[0][0]) if rows else 0
