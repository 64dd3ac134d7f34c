"""What content checksums of a ref came to: asked once more, whatever the process, they cost one row."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from shipway.local.checksums import local_checksums
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.trees.checksum import Checksums

LIMIT = 1000
"""Answers kept for a record: a build asks after some paths again and again, and after no more."""


class RecordChecksums:
    """The content checksums of one record's tree, which never changes. Thread-safe."""

    def __init__(self, store: Store, record: Record) -> None:
        """Look at the tree only when something is asked that was not asked before."""
        self._store = store
        self._record = record
        self._lock = threading.Lock()
        self._checksums: Checksums | None = None

    def checksum(
        self, path: str, *, follow: bool, wildcard: bool, include: Sequence[str], exclude: Sequence[str]
    ) -> str:
        """Return the digest; see `shipway.refs.ImmutableRef.checksum`."""
        query = repr((path, follow, wildcard, _fixed(include), _fixed(exclude)))
        known = self._store.database.read(
            "SELECT digest FROM answers WHERE record = ? AND query = ?", self._record.id, query
        )
        if known:
            return str(known[0][0])
        with self._lock:
            if self._checksums is None:
                self._checksums = local_checksums(self._store, self._record)
            checksums = self._checksums
        digest = checksums.checksum(path, follow=follow, wildcard=wildcard, include=include, exclude=exclude)
        with self._store.database.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO answers SELECT id, ?, ? FROM records"
                " WHERE id = ? AND (SELECT count(*) FROM answers WHERE record = id) < ?",
                (query, digest, self._record.id, LIMIT),
            )
        return digest


def _fixed(patterns: Sequence[str]) -> tuple[str, ...] | str:
    """Return patterns as what two equal ones read the same as; a lone string is refused further on."""
    return patterns if isinstance(patterns, str) else tuple(patterns)
