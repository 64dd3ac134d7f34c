"""All records of a store, those that others stand on first, however many there are.

What stands on what is in temporary tables, as it was at one moment; a page of ids is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from shipway.local.database import Connection, Database

_TABLES = """
CREATE TEMP TABLE stands (parent TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (parent, record)) WITHOUT ROWID;
CREATE TEMP TABLE waiting (
    id TEXT PRIMARY KEY,
    parents INTEGER NOT NULL,     -- how many of its parents were not gone to yet
    unsound INTEGER NOT NULL      -- whether one of the others is not sound, or not there
) WITHOUT ROWID;
CREATE TEMP TABLE queue (place INTEGER PRIMARY KEY, id TEXT NOT NULL, unsound INTEGER NOT NULL);
INSERT OR IGNORE INTO stands SELECT parent, record FROM parents WHERE EXISTS (SELECT 1 FROM records WHERE id = parent);
INSERT INTO waiting
SELECT id,
    (SELECT count(DISTINCT parent) FROM parents
        WHERE record = one.id AND EXISTS (SELECT 1 FROM records WHERE id = parent)),
    EXISTS (SELECT 1 FROM parents
        WHERE record = one.id AND NOT EXISTS (SELECT 1 FROM records WHERE id = parent))
FROM records AS one;
INSERT INTO queue SELECT NULL, id, unsound FROM waiting JOIN records USING (id) WHERE parents = 0 ORDER BY created, id
"""
_QUEUE = "SELECT place, id, unsound FROM queue WHERE place > ? ORDER BY place LIMIT ?"
_CHILDREN = "id IN (SELECT record FROM stands WHERE parent = ?)"
_BELOW = "SELECT parent FROM stands JOIN waiting ON id = parent WHERE record = ? AND parents > 0 LIMIT 1"


def from_below(database: Database, look: Callable[[str, bool, int], bool]) -> list[str]:
    """Go to every record after all that it stands on; return the ids of some that stand on each other, if any do.

    `look` is given a record's id, whether all that it stands on is sound, and how many records there are; it returns
    whether that is. What stands on records that stand on each other is not gone to.
    """
    with closing(database.aside()) as tables:
        with tables.transaction() as db:
            for statement in _TABLES.split(";\n"):
                db.execute(statement)
        ((count,),) = tables.read("SELECT count(*) FROM waiting")
        for page in tables.pages(_QUEUE):  # which grows meanwhile
            gone_to = [(unsound or not look(one, not unsound, count), one) for _, one, unsound in page]
            with tables.transaction() as db:
                for unsound, one in gone_to:
                    db.execute(
                        f"UPDATE waiting SET parents = parents - 1, unsound = max(unsound, ?) WHERE {_CHILDREN}",  # noqa: S608  constant
                        (unsound, one),
                    )
                    db.execute(
                        f"INSERT INTO queue SELECT NULL, id, unsound FROM waiting WHERE parents = 0 AND {_CHILDREN}",  # noqa: S608  constant
                        (one,),
                    )
        return _circle(tables)


def _circle(tables: Connection) -> list[str]:
    """Return ids of records each of which stands on the next, and the last on the first, among those still waiting."""
    found = dict.fromkeys(one for (one,) in tables.read("SELECT id FROM waiting WHERE parents > 0 LIMIT 1"))
    if not found:
        return []
    tables.read("CREATE INDEX temp.stands_record ON stands (record)")
    while True:
        ((below,),) = tables.read(_BELOW, next(reversed(found)))
        if below in found:
            ids = list(found)
            return ids[ids.index(below) :]
        found[below] = None
