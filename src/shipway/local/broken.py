"""Rows and files that do not belong to each other: a lost file system, or a crash, leaves such.

What is on disk is listed in a temporary table beside the rows, and compared there, so that neither is ever in memory.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice

from shipway.local.database import Database
from shipway.local.rows import delete

_SOME = 1000
_LOST = "SELECT id, {0} FROM records WHERE {0} <> '' AND {0} NOT IN (SELECT name FROM on_disk)"
_ORPHANS = "SELECT record FROM parents WHERE parent NOT IN (SELECT id FROM records)"
_WIDOWS = "twin NOT IN (SELECT id FROM records)"


def drop_broken(database: Database, existing: Callable[[], Iterable[str]]) -> None:
    """Delete records whose snapshot is not among `existing`, or whose parent is gone.

    `existing` is called when it is settled which rows are looked at: a snapshot is on disk before its row is there.
    """
    with closing(database.aside()) as tables, tables.transaction() as db:
        dangling = db.execute(_ORPHANS).fetchone() or db.execute(f"SELECT 1 FROM records WHERE {_WIDOWS}").fetchone()  # noqa: S608  constant
        _list(db, existing())
        lost = db.execute(_LOST.format("snapshot")).fetchall()
        inexact = db.execute(_LOST.format("exact")).fetchall()
    if not (lost or inexact or dangling):  # so that nobody has to wait for us
        return
    with database.write() as db:
        db.executemany("UPDATE records SET exact = NULL WHERE id = ? AND exact = ?", inexact)
        for row in lost:  # if it is still there, and has not got another since
            if db.execute("SELECT 1 FROM records WHERE id = ? AND snapshot = ?", row).fetchone():
                delete(db, row[0])
        while orphans := db.execute(_ORPHANS).fetchall():
            for (record_id,) in orphans:
                delete(db, record_id)
        # A twin without its other half: the immutable one stands by itself, the mutable one can be taken again.
        db.execute(f"UPDATE records SET twin = NULL WHERE {_WIDOWS}")  # noqa: S608  constant


def unknown(database: Database, existing: Iterable[str], known: str) -> list[str]:
    """Return which of `existing` the query `known`, which has one column of ASCII, does not return; in order.

    It is made when all were read: what is made is in a row before it is on disk.
    """
    strange: list[str] = []

    def plain() -> Iterator[str]:
        for name in existing:
            if name.isascii():
                yield name
            else:  # it may hold bytes that are no text
                strange.append(name)

    with closing(database.aside()) as tables:
        with tables.transaction() as db:
            _list(db, plain())
        rows = tables.read(f"SELECT name FROM on_disk EXCEPT SELECT * FROM ({known})")  # noqa: S608  constant
        return sorted([*(name for (name,) in rows), *strange])


def _list(db: sqlite3.Connection, names: Iterable[str]) -> None:
    db.execute("CREATE TEMP TABLE on_disk (name TEXT PRIMARY KEY) WITHOUT ROWID")
    rest = iter(names)
    while some := list(islice(rest, _SOME)):  # one statement for each would take twice as long
        db.execute("INSERT INTO on_disk SELECT value FROM json_each(?)", (json.dumps(some),))
