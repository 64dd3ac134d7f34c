"""What a prune is to do, decided on the books alone: every record gets a verdict, with a reason.

Only what nobody holds, nothing else stands on and the options allow can go. If sizes are given, blobs go first that
can be made again of a snapshot (those that were packed here, then those that came from elsewhere, which would be
packed to other bytes), and only then trees: the least recently used first, and those that were used often later.

The plan stands in temporary tables beside the books, and is made in passes over them, a page of rows at a time.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from shipway.local.books import Books, usage
from shipway.local.database import PAGE
from shipway.local.filters import parse_filters
from shipway.local.keeping import PruneOptions
from shipway.refs import PruneDecision, RecordType, UsageRecord, Verdict

_COPIED = [field.name for field in fields(UsageRecord)]
_SECOND = 10**9

_TABLES = """
CREATE TEMP TABLE named (id TEXT PRIMARY KEY) WITHOUT ROWID;
-- Records that must not go, and why not.
CREATE TEMP TABLE spared (place INTEGER PRIMARY KEY, reason TEXT NOT NULL);
-- Records that may go, in the order in which they would if none stood on another.
CREATE TEMP TABLE free (
    rank INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    parents TEXT,
    children INTEGER NOT NULL,    -- those that stay, or did not go yet
    size INTEGER NOT NULL,        -- of its snapshots
    diff_id TEXT,
    slimmed INTEGER               -- the turn in which blobs of its layer go before it does
);
-- What is left of each layer.
CREATE TEMP TABLE stock (
    diff_id TEXT PRIMARY KEY,
    records INTEGER NOT NULL,
    packed INTEGER NOT NULL,
    others INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TEMP TABLE decisions (
    turn INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    freed INTEGER NOT NULL,
    packed INTEGER NOT NULL DEFAULT 0,    -- whether blobs go that were packed here
    others INTEGER NOT NULL DEFAULT 0     -- whether other blobs go
);
"""
# Places in the order of last use and of usage counts, not values: a gap of a year is one step, and so is one of a
# thousand uses. Equal values share a place. Their sum, each from 0 to 1, is how much a record is worth keeping.
_FILL_SCORES = """
CREATE TEMP TABLE scores AS SELECT place,
    dense_rank() OVER (ORDER BY coalesce(last_used, created)) - 1 AS recent,
    dense_rank() OVER (ORDER BY usage_count) - 1 AS often
FROM books WHERE place NOT IN (SELECT place FROM spared)
"""
_FILL_FREE = """
INSERT INTO free SELECT NULL, place, id, parents, children, size, diff_id, NULL FROM scores JOIN books USING (place)
ORDER BY recent * 1.0 / max((SELECT max(recent) FROM scores), 1)
    + often * 1.0 / max((SELECT max(often) FROM scores), 1), coalesce(last_used, created), id
"""
_SLIMMING = """
CREATE TEMP TABLE slimming_{0} AS SELECT min(rank) AS rank, diff_id, stock.{0} AS size
FROM free JOIN stock USING (diff_id) WHERE stock.{0} > 0 GROUP BY diff_id HAVING count(*) = records ORDER BY 1
"""
_FREE = (
    "SELECT rank, place, id, parents, size, slimmed, diff_id, coalesce(records, 0), coalesce(packed + others, 0)"
    " FROM free LEFT JOIN stock USING (diff_id)"
)
_FILL_REST = """
INSERT INTO decisions (place, verdict, reason, freed)
SELECT books.place, 'keep', coalesce(reason, CASE WHEN free.children > 0 THEN 'something that stays stands on it'
    ELSE 'enough is free without it' END), 0
FROM books LEFT JOIN spared USING (place) LEFT JOIN free USING (id)
WHERE books.place NOT IN (SELECT place FROM decisions) ORDER BY books.place
"""
_DECISIONS = """
SELECT turn, books.id, books.parents, mutable, in_use,
    books.size + CASE WHEN layers.place = books.place THEN layers.packed + layers.others ELSE 0 END,
    created, last_used, usage_count, description, record_type, coalesce(records > 1, 0), verdict, reason, freed
FROM decisions JOIN books USING (place) LEFT JOIN layers USING (diff_id) WHERE turn > ? ORDER BY turn LIMIT ?
"""
_STEPS = """
SELECT turn, id, verdict, freed, diff_id, packed, others FROM decisions JOIN books USING (place)
WHERE turn > ? ORDER BY turn LIMIT ?
"""


class Step(NamedTuple):
    """A part of a plan that can be carried out."""

    turn: int
    id: str
    verdict: str
    freed: int
    """Bytes."""
    diff_id: str | None
    packed: bool
    """Whether blobs of its layer go that were packed here."""
    others: bool
    """Whether other blobs of its layer go."""


class _Free(NamedTuple):
    """A record that may go."""

    rank: int
    place: int
    id: str
    parents: str | None
    size: int
    slimmed: int | None
    diff_id: str | None
    sharing: int
    """How many records have its layer still."""
    blobs: int
    """Bytes of what is left of its layer's blobs."""


class Plan:
    """Decides which records go, until `excess` bytes are freed (None: as many as may go)."""

    def __init__(
        self,
        books: Books,
        options: PruneOptions,
        *,
        named: Collection[str] | None = None,
        excess: int | None = None,
        whole: bool = False,
    ) -> None:
        """Plan for the store with these books; `named` are the only ids that may go, if given.

        A `whole` plan has a decision for every record, also for those that stay. `Invalid` for a filter that is none.
        """
        self._books = books
        self._excess = excess
        with books.tables.transaction() as db:
            self._db = db
            for statement in _TABLES.split(";\n"):
                db.execute(statement)
            self._spare(options, named)
            db.execute(_FILL_SCORES)
            db.execute(_FILL_FREE)
            db.execute("INSERT INTO stock SELECT diff_id, records, packed, others FROM layers")
            if options.has_sizes:
                for column in ("packed", "others"):
                    self._slim(column)
            self._remove()
            if whole:
                db.execute(_FILL_REST)

    def decisions(self) -> Iterator[PruneDecision]:
        """Yield the decisions: on those that go in the order in which they do, then on those that stay."""
        for page in self._books.tables.pages(_DECISIONS):
            for row in page:
                values = usage(row[1:-3])
                yield PruneDecision(
                    **{name: getattr(values, name) for name in _COPIED},
                    verdict=Verdict(row[-3]),
                    reason=row[-2],
                    freed=row[-1],
                )

    def steps(self) -> Iterator[Step]:
        """Yield what is to be done, in that order."""
        for page in self._books.tables.pages(_STEPS):
            for row in page:
                if row[2] != Verdict.KEEP:
                    yield Step(*row)

    def withdraw(self, steps: Collection[Step] = (), *, after: int | None = None) -> None:
        """Take back decisions that were not carried out: some steps, or all from a turn on."""
        with self._books.tables.transaction() as db:
            db.executemany("DELETE FROM decisions WHERE turn = ?", [(step.turn,) for step in steps])
            if after is not None:
                db.execute("DELETE FROM decisions WHERE turn > ?", (after,))

    # Making it

    def _spare(self, options: PruneOptions, named: Collection[str] | None) -> None:
        """Note which records must not go; the first reason counts."""
        self._spare_where("in_use", "it is in use: held, or below something that is")
        if named is not None:
            self._db.executemany("INSERT INTO named VALUES (?)", [(one,) for one in named])
            self._spare_where("id NOT IN (SELECT id FROM named)", "it was not named")
        for kind in () if options.everything else (RecordType.INTERNAL, RecordType.FRONTEND):
            self._spare_where("record_type = ?", f"its type is {kind.value}", kind.value)
        if options.filters:
            matches = parse_filters(options.filters)
            others = ((place, "no filter means it") for place, row in self._books.places() if not matches(row))
            self._db.executemany("INSERT OR IGNORE INTO spared VALUES (?, ?)", others)
        if options.keep_duration is not None:
            since = time.time_ns() - int(options.keep_duration * _SECOND)
            self._spare_where("coalesce(last_used, created) > ?", "it was used lately", since)

    def _spare_where(self, condition: str, reason: str, *values: Any) -> None:
        statement = f"INSERT OR IGNORE INTO spared SELECT place, ? FROM books WHERE {condition}"  # noqa: S608  ours
        self._db.execute(statement, (reason, *values))

    def _slim(self, column: str) -> None:
        """Plan to drop blobs of layers all of whose records may go, until enough is freed."""
        self._db.execute(_SLIMMING.format(column))
        rows = f"SELECT rowid, rank, diff_id, size FROM slimming_{column} WHERE rowid > ? ORDER BY rowid LIMIT ?"  # noqa: S608  ours
        for page in self._books.tables.pages(rows):
            for _, rank, diff_id, size in page:
                if not self._wants_more():
                    return
                self._db.execute(f"UPDATE stock SET {column} = 0 WHERE diff_id = ?", (diff_id,))  # noqa: S608  ours
                ((place, turn),) = self._db.execute("SELECT place, slimmed FROM free WHERE rank = ?", (rank,))
                if turn is None:
                    turn = self._decide(place, Verdict.DROP_BLOBS, "its blob can be made again of its files", 0)
                    self._db.execute("UPDATE free SET slimmed = ? WHERE rank = ?", (turn, rank))
                self._db.execute(
                    f"UPDATE decisions SET freed = freed + ?, {column} = 1 WHERE turn = ?",  # noqa: S608  ours
                    (size, turn),
                )
                self._free(size)

    def _remove(self) -> None:
        """Plan to remove records, those with low ranks first and children before parents, until enough is freed.

        A page has the lowest ranks of all on which nothing stands. A parent that is bared by one of them is taken
        with them if its rank is as low, and else comes in a later page.
        """
        last = 0
        query = f"{_FREE} WHERE rank > ? AND children = 0 ORDER BY rank LIMIT ?"
        while ready := [_Free(*row) for row in self._db.execute(query, (last, PAGE))]:
            last = ready[-1].rank
            while ready:
                if not self._wants_more():
                    return
                record = heapq.heappop(ready)
                self._remove_one(record)
                for parent in record.parents.split() if record.parents else ():
                    bared = self._bare(parent)
                    if bared is not None and bared.rank < last:
                        heapq.heappush(ready, bared)

    def _remove_one(self, record: _Free) -> None:
        reason = "nobody holds it"
        if self._excess is not None:
            reason = f"least recently used, and {self._excess} bytes are still to go"
        freed = record.size + self._blobs_freed(record)
        self._free(freed)
        if record.slimmed is not None:
            ((slimmed,),) = self._db.execute("SELECT freed FROM decisions WHERE turn = ?", (record.slimmed,))
            self._db.execute("DELETE FROM decisions WHERE turn = ?", (record.slimmed,))
            freed += slimmed
        self._decide(record.place, Verdict.REMOVE, reason, freed)

    def _blobs_freed(self, record: _Free) -> int:
        """Return the bytes of the blobs that go with a record: all of its layer's if it is the last that has it."""
        if record.sharing <= 1:
            return record.blobs
        self._db.execute("UPDATE stock SET records = records - 1 WHERE diff_id = ?", (record.diff_id,))
        ((left,),) = self._db.execute("SELECT records FROM stock WHERE diff_id = ?", (record.diff_id,))
        return 0 if left else record.blobs

    def _bare(self, record_id: str) -> _Free | None:
        """Note that one less stands on a record, and return it if that was the last, and it may go."""
        self._db.execute("UPDATE free SET children = children - 1 WHERE id = ?", (record_id,))
        row = self._db.execute(f"{_FREE} WHERE id = ? AND children = 0", (record_id,)).fetchone()
        return _Free(*row) if row is not None else None

    def _decide(self, place: int, verdict: Verdict, reason: str, freed: int) -> int:
        """Write a decision down, and return its turn."""
        statement = "INSERT INTO decisions (place, verdict, reason, freed) VALUES (?, ?, ?, ?)"
        return self._db.execute(statement, (place, verdict.value, reason, freed)).lastrowid or 0

    def _wants_more(self) -> bool:
        return self._excess is None or self._excess > 0

    def _free(self, size: int) -> None:
        if self._excess is not None:
            self._excess -= size
