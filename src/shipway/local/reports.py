"""How refs were pulled: kept with their records, so that it can be asked later."""

from __future__ import annotations

import msgspec

from shipway.local.database import Database
from shipway.refs import Pulled


class Reports:
    """The reports of one store."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def save(self, record_id: str, report: Pulled) -> None:
        """Remember how a record was pulled, unless it is gone."""
        data = msgspec.json.encode(report)
        with self._database.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO reports SELECT id, ? FROM records WHERE id = ?", (data.decode(), record_id)
            )

    def load(self, record_id: str) -> Pulled | None:
        """Return how a record was pulled; None if it was not."""
        rows = self._database.read("SELECT data FROM reports WHERE record = ?", record_id)
        return msgspec.json.decode(rows[0][0], type=Pulled) if rows else None
