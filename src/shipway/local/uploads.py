"""Uploads that were begun and are not done: where a later push can go on with one.

An address may carry what lets its bearer write, so it is shown to nobody. One that a living process works at is left
to it: two that write at the same place spoil what is there.
"""

from __future__ import annotations

import time

from shipway.local.database import Database
from shipway.local.leases import Leases

MOST = 1000
"""Uploads that are remembered, the newest ones."""
_KEPT_SECONDS = 7 * 24 * 3600
"""Registries forget by themselves, few of them later than this."""
_LONGEST = 8 << 10
"""Characters of an address; one that is longer is not kept."""


class Uploads:
    """The uploads of one store; implements `shipway.remotes.contract.Unfinished`. Thread-safe."""

    def __init__(self, database: Database, leases: Leases) -> None:
        """Keep them in `database`; `leases` says who this instance is and who is alive."""
        self._database = database
        self._leases = leases

    def take(self, place: str, digest: str) -> str | None:
        """Return where an upload can be gone on with that nobody works at; it is this instance's from then on."""
        with self._database.write() as db:
            row = db.execute(
                "SELECT location, instance FROM uploads WHERE place = ? AND digest = ? AND noted >= ?",
                (place, digest, _oldest()),
            ).fetchone()
            if row is None or self._leases.is_alive(row[1]):
                return None
            db.execute(
                "UPDATE uploads SET instance = ? WHERE place = ? AND digest = ?",
                (self._leases.instance, place, digest),
            )
        return str(row[0])

    def note(self, place: str, digest: str, location: str) -> None:
        """Remember where the upload that this instance works at goes on."""
        if len(location) > _LONGEST:
            return
        with self._database.write() as db:
            row = (place, digest, location, self._leases.instance, time.time_ns())
            db.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?)", row)
            db.execute("DELETE FROM uploads WHERE noted < ?", (_oldest(),))
            db.execute(
                "DELETE FROM uploads WHERE noted < (SELECT noted FROM uploads ORDER BY noted DESC LIMIT 1 OFFSET ?)",
                (MOST - 1,),
            )

    def leave(self, place: str, digest: str) -> None:
        """Let anybody go on with an upload that this instance has worked at."""
        with self._database.write() as db:
            db.execute(
                "UPDATE uploads SET instance = '' WHERE place = ? AND digest = ? AND instance = ?",
                (place, digest, self._leases.instance),
            )

    def forget(self, place: str, digest: str) -> None:
        """Forget an upload that is done, or that cannot be gone on with."""
        with self._database.write() as db:
            db.execute("DELETE FROM uploads WHERE place = ? AND digest = ?", (place, digest))


def _oldest() -> int:
    return time.time_ns() - _KEPT_SECONDS * 10**9
