"""Rows without the files or the rows that they stand on: a lost file system, or a crash of the machine, leaves such."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shipway.local.database import Database
from shipway.local.rows import delete


def drop_broken(database: Database, existing: Callable[[], Iterable[str]]) -> None:
    """Delete records whose snapshot is not among `existing`, or whose parent is gone.

    `existing` is called inside the transaction, when the rows have been read.
    """
    with database.write() as db:
        rows = db.execute("SELECT id, snapshot FROM records WHERE snapshot IS NOT NULL").fetchall()
        on_disk = set(existing())
        exact = db.execute("SELECT id, exact FROM records WHERE exact <> ''").fetchall()
        lost = [(record_id,) for record_id, snapshot in exact if snapshot not in on_disk]
        db.executemany("UPDATE records SET exact = NULL WHERE id = ?", lost)
        for record_id, snapshot in rows:
            if snapshot not in on_disk:
                delete(db, record_id)
        while orphans := db.execute(
            "SELECT record FROM parents WHERE parent NOT IN (SELECT id FROM records)"
        ).fetchall():
            for (record_id,) in orphans:
                delete(db, record_id)
        # A twin without its other half: the immutable one stands by itself, the mutable one can be taken again.
        db.execute("UPDATE records SET twin = NULL WHERE twin NOT IN (SELECT id FROM records)")
