"""The books of a store: what each of its trees takes, as it was at one moment.

They are temporary tables of a connection of their own, which SQLite keeps in a file, so that memory holds a page of
rows however many records there are. All is read in one transaction, which is over when the books are there: whoever
takes their time to read them keeps nobody else waiting, and the database's log from growing.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from shipway.local.database import Connection
from shipway.local.holds import IN_USE
from shipway.local.rows import Own
from shipway.local.sizes import Sizes
from shipway.local.store import Store
from shipway.refs import RecordType, UsageRecord

_TABLES = """
CREATE TEMP TABLE used (id TEXT PRIMARY KEY) WITHOUT ROWID;
-- One row a tree. Of one that is committed but not finalized, which has two records, it is the one
-- that is held; the mutable one if neither is.
CREATE TEMP TABLE books (
    place INTEGER PRIMARY KEY,    -- oldest first
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    mutable INTEGER NOT NULL,
    twin TEXT,
    snapshot TEXT,
    exact TEXT,
    diff_id TEXT,
    record_type TEXT NOT NULL,
    description TEXT NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER,
    usage_count INTEGER NOT NULL,
    parents TEXT,                 -- their ids, with spaces between; NULL for none
    children INTEGER NOT NULL,    -- how many trees stand on it
    in_use INTEGER NOT NULL,
    size INTEGER NOT NULL         -- bytes of its snapshots
);
CREATE TEMP TABLE layers (
    diff_id TEXT PRIMARY KEY,
    place INTEGER NOT NULL,       -- of the first record that has it, with which its blobs are counted
    records INTEGER NOT NULL,     -- how many have it
    packed INTEGER NOT NULL,      -- bytes of blobs that were made here, and can be made again
    others INTEGER NOT NULL       -- bytes of other blobs
) WITHOUT ROWID;
"""
_VISIBLE = (
    "({0}.twin IS NULL OR CASE WHEN {0}.mutable THEN {0}.twin NOT IN (SELECT id FROM used)"
    " ELSE {0}.id IN (SELECT id FROM used) END)"
)
_FILL_BOOKS = f"""
INSERT INTO books
SELECT NULL, id, kind, mutable, twin, snapshot, exact, diff_id, record_type, description,
    created, last_used, usage_count,
    (SELECT group_concat(parent, ' ') FROM (SELECT parent FROM parents WHERE record = one.id ORDER BY position)),
    (SELECT count(*) FROM parents JOIN records AS child ON child.id = record
        WHERE parent = one.id AND {_VISIBLE.format("child")}),
    id IN (SELECT id FROM used), 0
FROM records AS one WHERE {_VISIBLE.format("one")} %s ORDER BY created, id
"""  # noqa: S608  constants
_ONLY_SHARING = """
AND id IN (
    WITH wanted (id) AS (
        SELECT value FROM json_each(?1) UNION SELECT twin FROM json_each(?1) JOIN records ON records.id = value)
    SELECT id FROM wanted UNION
    SELECT other.id FROM wanted JOIN records USING (id) JOIN records AS other ON other.diff_id = records.diff_id)
"""
_FILL_LAYERS = """
INSERT INTO layers
SELECT diff_id, place, count,
    sum(CASE WHEN packed THEN bytes ELSE 0 END), sum(CASE WHEN NOT packed THEN bytes ELSE 0 END)
FROM (SELECT diff_id, min(place) AS place, count(*) AS count FROM books WHERE diff_id IS NOT NULL GROUP BY diff_id)
LEFT JOIN (SELECT diff_id, packed, (size + ?1 - 1) / ?1 * ?1 AS bytes FROM blobs) USING (diff_id) GROUP BY diff_id
"""
_ROWS = """
SELECT books.place, id, parents, mutable, in_use,
    size + CASE WHEN layers.place = books.place THEN packed + others ELSE 0 END,
    created, last_used, usage_count, description, record_type, coalesce(records > 1, 0)
FROM books LEFT JOIN layers USING (diff_id) WHERE books.place > ? ORDER BY books.place LIMIT ?
"""
_OWN = "SELECT place, id, kind, mutable, twin, snapshot, exact FROM books WHERE place > ? ORDER BY place LIMIT ?"
_GONE = "SELECT snapshot FROM sizes EXCEPT SELECT snapshot FROM records EXCEPT SELECT exact FROM records"


class Books:
    """What each tree of a store took at the moment when they were made."""

    def __init__(self, store: Store, ids: Collection[str] | None = None, *, in_memory: bool = False) -> None:
        """Make the books of `store`. Snapshots that did not change since the last time are not looked into.

        With `ids` they are those of the records with these ids or twins, and of others that have the same layers.
        `NoSpace` if there is none for the file, unless they are to be `in_memory`.
        """
        store.reclaim()
        self.tables: Connection = store.database.aside(in_memory=in_memory)
        weakref.finalize(self, self.tables.close)
        only = () if ids is None else (json.dumps(list(ids)),)
        with self.tables.transaction() as db:
            for statement in _TABLES.split(";\n"):
                db.execute(statement)
            db.execute(f"INSERT INTO used {IN_USE}")
            db.execute(_FILL_BOOKS % (_ONLY_SHARING if only else ""), only)
            db.execute(_FILL_LAYERS, (os.statvfs(store.root).f_frsize,))
            if ids is None:
                db.execute(f"CREATE TEMP TABLE gone AS {_GONE}")
        if ids is None:
            for page in self.tables.pages("SELECT rowid, snapshot FROM gone WHERE rowid > ? ORDER BY rowid LIMIT ?"):
                store.sizes.forget(key for _, key in page)
        self._measure(store.sizes)

    def _measure(self, sizes: Sizes) -> None:
        for page in self.tables.pages(_OWN):
            owners = [
                Own(id=row[1], kind=row[2], mutable=bool(row[3]), twin=row[4], snapshot=row[5], exact=row[6])
                for row in page
            ]
            found = sizes.of(owners)
            taken = [
                (sum(found.get(key, 0) for key in owner.snapshots), row[0])
                for owner, row in zip(owners, page, strict=True)
            ]
            with self.tables.transaction() as db:
                db.executemany("UPDATE books SET size = ? WHERE place = ?", taken)

    def rows(self) -> Iterator[UsageRecord]:
        """Yield a row for each tree, oldest first. A blob that several share is counted with the first of them."""
        for _, row in self.places():
            yield row

    def places(self) -> Iterator[tuple[int, UsageRecord]]:
        """Yield what `rows` does, each with its place in the table."""
        for page in self.tables.pages(_ROWS):
            for row in page:
                yield row[0], usage(row[1:])

    def total(self) -> int:
        """Return the bytes that all trees take."""
        ((size,),) = self.tables.read(
            "SELECT (SELECT coalesce(sum(size), 0) FROM books) + (SELECT coalesce(sum(packed + others), 0) FROM layers)"
        )
        return int(size)


def usage(row: tuple[Any, ...]) -> UsageRecord:
    """Return the record of a row with the columns that it has, in its order; parents with spaces between."""
    return UsageRecord(
        id=row[0],
        parents=tuple(row[1].split()) if row[1] else (),
        mutable=bool(row[2]),
        in_use=bool(row[3]),
        size=row[4],
        created=_time(row[5]),
        last_used=_time(row[6]) if row[6] is not None else None,
        usage_count=row[7],
        description=row[8],
        record_type=RecordType(row[9]),
        shared=bool(row[10]),
    )


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
