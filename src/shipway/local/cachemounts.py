"""Names of cache mounts: which record each goes on with."""

from __future__ import annotations

import time

from shipway.local.database import Database


class CacheMountNames:
    """The names of one store. A name has one state, and further ones if private holders came at the same time.

    A state is a mutable record, or once that is finalized the immutable one: the database keeps up with that.
    """

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def states(self, name: str) -> list[str]:
        """Return the records of a name, the first one first."""
        query = "SELECT record FROM cache_mounts WHERE name = ? ORDER BY updated, record"
        return [record for (record,) in self._database.read(query, name)]

    def all(self) -> list[tuple[str, str, int]]:
        """Return (name, record, since when) of all, in the order of names."""
        rows = self._database.read("SELECT name, record, updated FROM cache_mounts ORDER BY name, updated, record")
        return [(name, record, updated) for name, record, updated in rows]

    def add(self, name: str, record: str) -> None:
        """Give a name one more state."""
        with self._database.write() as db:
            db.execute("INSERT OR IGNORE INTO cache_mounts VALUES (?, ?, ?)", (name, record, time.time_ns()))

    def replace(self, name: str, old: str, new: str) -> None:
        """Make a state of a name another record."""
        with self._database.write() as db:
            db.execute("UPDATE OR REPLACE cache_mounts SET record = ? WHERE name = ? AND record = ?", (new, name, old))

    def forget(self, name: str, record: str) -> None:
        """Take a state from a name."""
        with self._database.write() as db:
            db.execute("DELETE FROM cache_mounts WHERE name = ? AND record = ?", (name, record))
