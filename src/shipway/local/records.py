"""Records and the holds on them: the life cycle of refs, as transactions.

A method either happens whole or not at all, whatever other processes do. None
touches snapshots: rows go first, files after, so that a crash in
between leaves files nobody refers to and never a row without its files.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from shipway.errors import Invalid, Locked, NotFound
from shipway.local.database import Database
from shipway.local.holds import Holds
from shipway.local.leases import Leases
from shipway.local.rows import COLUMNS, Kind, NewRecord, Outline, Record, delete, insert, read_row
from shipway.refs import CachePolicy

_OUTLINES = """
WITH RECURSIVE family (id, kind, snapshot, exact, position, parent) AS (
    SELECT id, kind, snapshot, exact, position, parent FROM records LEFT JOIN parents ON record = id WHERE id = ?
    UNION
    SELECT one.id, one.kind, one.snapshot, one.exact, above.position, above.parent
    FROM family JOIN records one ON one.id = family.parent LEFT JOIN parents above ON above.record = one.id
)
SELECT id, kind, snapshot, exact, parent FROM family ORDER BY position
"""
_FAMILY = "WITH RECURSIVE family (id) AS (VALUES (?) UNION SELECT parent FROM parents JOIN family ON record = id)"


One = TypeVar("One")


class Family(dict[str, One]):
    """A record and all that it stands on, by their ids; `NotFound` for one that is not there."""

    def __missing__(self, record_id: str) -> One:
        raise _missing(record_id)


class Records:
    """The records of one store, seen by one instance."""

    def __init__(self, database: Database, leases: Leases, holds: Holds) -> None:
        """Work on `database`; `leases` says who this instance is and who is alive, `holds` what they hold."""
        self._database = database
        self._leases = leases
        self._holds = holds

    # Looking up

    def get(self, record_id: str) -> Record:
        """Return a record; `NotFound` if there is none."""
        record = self.find(record_id)
        if record is None:
            raise _missing(record_id)
        return record

    def find(self, record_id: str) -> Record | None:
        """Return a record, or None."""
        return self._first("id = ?", record_id)

    def of_chain(self, chain_id: str) -> Record | None:
        """Return the oldest finished record of a layer and all below it, or None."""
        return self._first("chain_id = ? AND NOT mutable ORDER BY created, id", chain_id)

    def id_of(self, prefix: str) -> str:
        """Return the id that starts with `prefix`. `NotFound` if there is none, `Invalid` if there are several."""
        query = "SELECT id FROM records WHERE id >= ? AND id < ? LIMIT 2"
        matches = [row[0] for row in self._database.read(query, prefix, prefix + "\U0010ffff")] if prefix else []
        if prefix in matches:
            return prefix
        if not matches:
            raise _missing(prefix)
        if len(matches) > 1:
            raise Invalid("several refs start with that", where=prefix, todo="give more of the id")
        return str(matches[0])

    def all(self) -> list[Record]:
        """Return every record, oldest first."""
        return self._with_parents("records", "created, id")

    def parent(self, record: Record, position: int = 0) -> Record | None:
        """Return one of the parents of a record; None if it has no such."""
        return self.get(record.parents[position]) if len(record.parents) > position else None

    def family(self, record: Record) -> Family[Record]:
        """Return a record and all that it stands on, by their ids, in one look."""
        if not record.parents:
            return Family({record.id: record})
        found = self._with_parents("family JOIN records USING (id)", "id", _FAMILY, record.id)
        return Family((one.id, one) for one in found)

    def outlines(self, record: Record) -> Family[Outline]:
        """Return what `family` does, of each record only what its tree is made of: chains are long."""
        if not record.parents:
            return Family({record.id: Outline(record.id, record.kind, record.snapshot, record.exact)})
        found: Family[Outline] = Family()
        for one, kind, snapshot, exact, parent in self._database.read(_OUTLINES, record.id):
            before = found[one].parents if one in found else ()
            found[one] = Outline(one, kind, snapshot, exact, before if parent is None else (*before, parent))
        return found

    def _with_parents(self, source: str, order: str, before: str = "", *values: str) -> list[Record]:
        """Return the records of a source of rows, all as they are at one moment: it is one query."""
        query = f"{before} SELECT {COLUMNS}, parent FROM {source} LEFT JOIN parents ON record = id"  # noqa: S608  constant
        found: list[Record] = []
        for _, rows in groupby(self._database.each(f"{query} ORDER BY {order}, position", *values), itemgetter(0)):
            first, *others = rows
            found.append(read_row(first, [row[-1] for row in (first, *others) if row[-1] is not None]))
        return found

    def _first(self, condition: str, value: str) -> Record | None:
        first = f"(SELECT {COLUMNS} FROM records WHERE {condition} LIMIT 1)"  # noqa: S608  constant
        query = f"SELECT {COLUMNS}, parent FROM {first} LEFT JOIN parents ON record = id ORDER BY position"  # noqa: S608  constant
        rows = self._database.read(query, value)
        return read_row(rows[0], [row[-1] for row in rows if row[-1] is not None]) if rows else None

    # Making and changing

    def reserve_snapshot(self) -> str:
        """Return a snapshot key that is ours to make; a crash before `add` gives it up."""
        with self._database.write() as db:
            row = db.execute("SELECT value FROM settings WHERE name = 'last_snapshot'").fetchone()
            number = int(row[0]) + 1 if row else 1
            db.execute(
                "INSERT INTO settings VALUES ('last_snapshot', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(number),),
            )
            key = _base36(number)
            db.execute("INSERT INTO pending VALUES (?, ?)", (key, self._leases.instance))
        return key

    def is_reserved(self, key: str) -> bool:
        """Whether a snapshot key is still being made: no record has it yet."""
        return bool(self._database.read("SELECT 1 FROM pending WHERE snapshot = ?", key))

    def forget_snapshot(self, key: str) -> None:
        """Give up a reserved key whose files are gone."""
        with self._database.write() as db:
            db.execute("DELETE FROM pending WHERE snapshot = ?", (key,))

    def add(
        self,
        new: NewRecord,
        *,
        mutable: bool,
        snapshot: str | None,
        parents: Sequence[str] = (),
        kind: Kind = "layer",
        diff_id: str | None = None,
        chain_id: str | None = None,
    ) -> Record:
        """Make a record, over a reserved snapshot if it is a layer, and hold it. `NotFound` if a parent is gone."""
        record = Record(
            id=secrets.token_hex(10),
            kind=kind,
            mutable=mutable,
            twin=None,
            snapshot=snapshot,
            diff_id=diff_id,
            chain_id=chain_id,
            policy=new.policy,
            record_type=new.record_type,
            description=new.description,
            labels=new.labels,
            created=time.time_ns(),
            last_used=None,
            usage_count=0,
            parents=tuple(parents),
        )
        with self._database.write() as db:
            for parent in parents:
                if db.execute("SELECT 1 FROM records WHERE id = ?", (parent,)).fetchone() is None:
                    raise NotFound("the parent is gone", where=parent)
            db.execute("DELETE FROM pending WHERE snapshot = ?", (snapshot,))
            insert(db, record)
            self._holds.take(record.id)
        return record

    def hold_mutable(self, record_id: str) -> Record:
        """Take a mutable record for ourselves alone; its immutable twin, if any, is gone then.

        Raises `NotFound`, `Invalid` for an immutable record, `Locked` if it, or its twin, is held.
        """
        with self._database.write() as db:
            record = self.get(record_id)
            if not record.mutable:
                raise Invalid("is immutable", where=record_id, todo="make a mutable ref over it with new(parent=…)")
            if self._holds.is_held(record_id) or (record.twin is not None and self._holds.is_held(record.twin)):
                raise Locked("is held by somebody else", where=record_id, todo="wait until they release it")
            if record.twin is not None:
                delete(db, record.twin)
                db.execute("UPDATE records SET twin = NULL WHERE id = ?", (record_id,))
            self._holds.take(record_id)
            return self.get(record_id)

    def hold_again(self, record_id: str) -> Record | None:
        """Take one more hold on a mutable record that nobody but this instance holds; None if another one does."""
        with self._database.write():
            if not self._holds.own(record_id) or self._holds.is_held(record_id, by_others=True):
                return None
            self._holds.take(record_id)
            return self.get(record_id)

    def hold_immutable(self, record_id: str) -> Record:
        """Take one more hold on an immutable record. Raises `NotFound`, or `Invalid` for a mutable one."""
        with self._database.write():
            record = self.get(record_id)
            if record.mutable:
                raise Invalid("is mutable", where=record_id, todo="take it with get_mutable")
            self._holds.take(record_id)
        return record

    def commit(self, mutable_id: str) -> Record:
        """Give a held mutable record an immutable twin; our hold passes over to that."""
        twin_id = secrets.token_hex(10)
        with self._database.write() as db:
            record = self.get(mutable_id)
            if self._holds.own(mutable_id) > 1:
                raise Locked("is shared with others, who may still write", where=mutable_id, todo="wait for them")
            twin = msgspec.structs.replace(
                record,
                id=twin_id,
                mutable=False,
                twin=mutable_id,
                created=time.time_ns(),
                last_used=None,
                usage_count=0,
            )
            insert(db, twin)
            db.execute("UPDATE records SET twin = ? WHERE id = ?", (twin_id, mutable_id))
            self._holds.pass_on(mutable_id, twin_id)
        return twin

    def finalized(self, immutable_id: str) -> None:
        """Drop the mutable twin: the driver has committed the snapshot."""
        with self._database.write() as db:
            record = self.find(immutable_id)
            if record is not None and record.twin is not None:
                db.execute("UPDATE cache_mounts SET record = ? WHERE record = ?", (immutable_id, record.twin))
                delete(db, record.twin)
                db.execute("UPDATE records SET twin = NULL WHERE id = ?", (immutable_id,))

    def update(self, record_id: str, **columns: Any) -> None:
        """Set columns of a record (names are those of `Record`); a reserved snapshot becomes its own."""
        values = {
            name: msgspec.json.encode(value).decode() if name == "labels" else value for name, value in columns.items()
        }
        made = [values[name] for name in ("snapshot", "exact") if name in values]
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self._database.write() as db:
            db.executemany("DELETE FROM pending WHERE snapshot = ?", [(key,) for key in made])
            db.execute(f"UPDATE records SET {assignments} WHERE id = ?", (*values.values(), record_id))  # noqa: S608  our names

    # Holds

    def release(self, record_id: str) -> list[str]:
        """Let go of one hold. Returns the snapshots that are to be removed, now that nobody wants them."""
        with self._database.write() as db:
            self._holds.let_go(record_id)
            db.execute(
                "UPDATE records SET usage_count = usage_count + 1, last_used = ? WHERE id = ?",
                (time.time_ns(), record_id),
            )
            return self._drop_if_abandoned(record_id)

    def reclaim(self) -> list[str]:
        """Take back the holds of the dead. Returns the snapshots that are to be removed."""
        doomed: list[str] = []
        with self._database.write() as db:
            instances = db.execute("SELECT instance FROM holds UNION SELECT instance FROM pending").fetchall()
            for (instance,) in instances:
                if not self._leases.is_alive(instance):
                    doomed += self.let_go(instance)
            for record_id in self._holds.forget_stale_mounts():
                doomed += self._drop_if_abandoned(record_id)
        return doomed

    def let_go(self, instance: str) -> list[str]:
        """Let go of all that `instance` holds or is making. Returns the snapshots that are to be removed."""
        with self._database.write() as db:
            doomed = [row[0] for row in db.execute("SELECT snapshot FROM pending WHERE instance = ?", (instance,))]
            db.execute("DELETE FROM pending WHERE instance = ?", (instance,))
            for record_id in self._holds.let_go_of_all(instance):
                doomed += self._drop_if_abandoned(record_id)
        return doomed

    def _drop_if_abandoned(self, record_id: str) -> list[str]:
        """Delete a mutable record that was let go of uncommitted, unless it was to be retained."""
        record = self.find(record_id)
        if record is None or not record.mutable or record.twin or record.policy is CachePolicy.RETAIN:
            return []
        with self._database.write() as db:
            if self._holds.is_held(record_id):
                return []
            delete(db, record_id)
        return record.snapshots

    # Removing

    def remove(self, record_id: str) -> list[str]:
        """Delete an unused record and its twin; returns the snapshots to be removed. `Locked` if it is in use."""
        with self._database.write() as db:
            record = self._unused(record_id)
            delete(db, *_pair(record))
        return record.snapshots

    def remove_unused(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """Delete those of some records, children before parents, and their twins, that are not in use: all at once.

        Returns by the id of each that goes the snapshots to be removed. Others wait for the transaction: give few.
        """
        removed: dict[str, list[str]] = {}
        going: set[str] = set()
        with self._database.write() as db:
            for record_id in ids:
                with suppress(Locked, NotFound):
                    record = self._unused(record_id, going)
                    going.update(_pair(record))
                    removed[record_id] = record.snapshots
            delete(db, *going)
        return removed

    def _unused(self, record_id: str, going: Collection[str] = ()) -> Record:
        """Return a record that nobody holds, nor its twin, and on which nothing stands but what is `going`.

        `NotFound` if there is none by then, `Locked` if it is in use.
        """
        record = self.get(record_id)
        for one in _pair(record):
            for (child,) in self._database.read("SELECT record FROM parents WHERE parent = ?", one):
                if child not in going:
                    raise Locked(f"{child} stands on it", where=record_id, todo="remove that first")
            if self._holds.is_held(one):
                raise Locked("is in use", where=record_id, todo="release it first")
        return record

    def unfinished_pairs(self) -> list[Record]:
        """Return the immutable records that are committed but not finalized."""
        ids = self._database.read("SELECT id FROM records WHERE twin IS NOT NULL AND NOT mutable")
        return [record for (record_id,) in ids if (record := self.find(record_id)) is not None]

    def known_snapshots(self) -> set[str]:
        """Return every snapshot key that belongs to a record or is being made."""
        rows = self._database.read(
            "SELECT snapshot FROM records UNION SELECT exact FROM records UNION SELECT snapshot FROM pending"
        )
        return {row[0] for row in rows}


def _pair(record: Record) -> list[str]:
    return [record.id] if record.twin is None else [record.id, record.twin]


def _missing(record_id: str) -> NotFound:
    return NotFound("no such ref in this store", where=record_id, todo="`shipway ls` lists them")


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
