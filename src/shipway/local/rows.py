"""The rows of `records` and their parents, as values."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from shipway.refs import CachePolicy, RecordType

Kind = Literal["layer", "merge", "diff"]
"""A layer over its parent, a merge of its parents, or what makes its second parent of its first."""


class Own(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What of a row of `records` says which snapshots are its own."""

    id: str
    kind: Kind = "layer"
    mutable: bool
    twin: str | None
    snapshot: str | None
    exact: str | None = None

    @property
    def snapshots(self) -> list[str]:
        """The keys of its own snapshots."""
        return list(dict.fromkeys(key for key in (self.snapshot, self.exact) if key))


class Record(Own, frozen=True, kw_only=True, gc=False):
    """A row of `records` and its parents. Times are nanoseconds since 1970."""

    diff_id: str | None
    chain_id: str | None
    policy: CachePolicy
    record_type: RecordType
    description: str
    labels: dict[str, str]
    created: int
    last_used: int | None
    usage_count: int
    parents: tuple[str, ...]


class Outline(msgspec.Struct, frozen=True, gc=False):
    """A record as far as it matters for what a tree is made of."""

    id: str
    kind: Kind
    snapshot: str | None
    exact: str | None
    parents: tuple[str, ...] = ()


class NewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller may say about a record that is to be made."""

    policy: CachePolicy = CachePolicy.DEFAULT
    record_type: RecordType = RecordType.REGULAR
    description: str = ""
    labels: dict[str, str] = {}


_ABOUT_RECORDS = (
    ("records", "id"),
    ("parents", "record"),
    ("holds", "record"),
    ("tags", "record"),
    ("manifests", "record"),
    ("cache_mounts", "record"),
    ("checksums", "layer"),
    ("contents", "record"),
    ("reports", "record"),
    ("answers", "record"),
)
"""Tables with rows that go with a record, and the column that says which."""
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_NO_LABELS: dict[str, str] = {}
_decode_labels = msgspec.json.Decoder(dict[str, str]).decode
COLUMNS = (
    "id, kind, mutable, twin, snapshot, exact, diff_id, chain_id, policy, record_type, description, labels,"
    " created, last_used, usage_count"
)


def insert(db: sqlite3.Connection, record: Record) -> None:
    """Add a record and its parents."""
    db.execute(
        f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  constant columns
        (
            record.id,
            record.kind,
            record.mutable,
            record.twin,
            record.snapshot,
            record.exact,
            record.diff_id,
            record.chain_id,
            record.policy,
            record.record_type,
            record.description,
            msgspec.json.encode(record.labels).decode(),
            record.created,
            record.last_used,
            record.usage_count,
        ),
    )
    db.executemany(
        "INSERT INTO parents VALUES (?, ?, ?)",
        [(record.id, position, parent) for position, parent in enumerate(record.parents)],
    )


def delete(db: sqlite3.Connection, *record_ids: str) -> None:
    """Remove records and all that is about them alone: holds, the tags that name them, their manifests."""
    rows = [(one,) for one in record_ids]
    for table, column in _ABOUT_RECORDS:
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)  # noqa: S608  constant


def read_row(row: tuple[Any, ...], parents: Sequence[str]) -> Record:
    """Return the record of a row of `COLUMNS`."""
    return Record(
        id=row[0],
        kind=_KINDS[row[1]],
        mutable=bool(row[2]),
        twin=row[3],
        snapshot=row[4],
        exact=row[5],
        diff_id=row[6],
        chain_id=row[7],
        policy=CachePolicy(row[8]),
        record_type=RecordType(row[9]),
        description=row[10],
        labels=_decode_labels(row[11]) if row[11] != "{}" else _NO_LABELS,
        created=row[12],
        last_used=row[13],
        usage_count=row[14],
        parents=tuple(parents),
    )
