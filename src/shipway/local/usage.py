"""Disk usage: what each tree of a store takes, and what the store takes beside them."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shipway.local.filters import parse_filters
from shipway.local.rows import Record
from shipway.local.sizes import snapshots
from shipway.local.store import Store
from shipway.refs import UsageRecord

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer's blob, and the bytes it takes on disk; `packed` was made here and can be made again."""

    digest: str
    size: int
    packed: bool


@dataclass(frozen=True, slots=True)
class Accounts:
    """A store's books at one moment.

    `rows` has a row for each tree, oldest first. A blob that several records share is counted with the first of them.
    """

    rows: list[UsageRecord]
    snapshot_sizes: Mapping[str, int]
    """Bytes of a record's snapshots, by id."""
    diff_ids: Mapping[str, str]
    """By id, of visible records whose layer is known."""
    blobs: Mapping[str, list[Blob]]
    """By DiffID."""


def disk_usage(store: Store, filters: Iterable[str] = ()) -> list[UsageRecord]:
    """Return one row for each tree in the store, oldest first; with `filters` those that one of them means.

    Of a tree that is committed but not finalized, which has two records, it is the one
    that is held; the mutable one if neither is.
    """
    matches = parse_filters(filters)
    return [row for row in accounts(store, matches.ids).rows if matches(row)]


def accounts(store: Store, ids: Collection[str] | None = None) -> Accounts:
    """Return the store's books. Snapshots that did not change since the last time are not looked into.

    With `ids` they are those of the records with these ids, and of others that have the same layers.
    """
    store.reclaim()
    in_use = store.holds.in_use()
    if ids is None:
        records = store.records.all()
        sizes, blobs = store.sizes.of_all(records), layer_blobs(store)
    else:
        records = store.records.sharing(ids)
        sizes, blobs = store.sizes.of(records), layer_blobs(store, {one.diff_id for one in records if one.diff_id})
    visible = [record for record in records if _is_visible(record, in_use)]
    own = {record.id: sum(sizes.get(one.key, 0) for one in snapshots(record)) for record in visible}
    sharing = Counter(record.diff_id for record in visible if record.diff_id)
    counted: set[str] = set()
    rows = []
    for record in visible:
        size = own[record.id]
        if record.diff_id is not None and record.diff_id not in counted:
            counted.add(record.diff_id)
            size += sum(blob.size for blob in blobs.get(record.diff_id, ()))
        shared = record.diff_id is not None and sharing[record.diff_id] > 1
        rows.append(_usage(record, size=size, in_use=record.id in in_use, shared=shared))
    diff_ids = {record.id: record.diff_id for record in visible if record.diff_id is not None}
    return Accounts(rows, own, diff_ids, blobs)


def layer_blobs(store: Store, diff_ids: Collection[str] | None = None) -> dict[str, list[Blob]]:
    """Return the blobs that hold layers, all or those with one of `diff_ids`, by DiffID."""
    block = os.statvfs(store.root).f_frsize
    found: dict[str, list[Blob]] = defaultdict(list)
    query = "SELECT diff_id, digest, size, packed FROM blobs WHERE diff_id IS NOT NULL"
    some = () if diff_ids is None else (json.dumps(list(diff_ids)),)
    only = " AND diff_id IN (SELECT value FROM json_each(?))" if some else ""
    for diff_id, digest, size, packed in store.database.read(query + only, *some):
        found[diff_id].append(Blob(digest, _rounded(size, block), bool(packed)))
    return found


def overhead(store: Store) -> int:
    """Return the bytes under the root that belong to no tree.

    That is the database, directories, blobs that are no layer of any tree (configurations), and what is unfinished.
    """
    block = os.statvfs(store.root).f_frsize
    others = store.database.read(
        "SELECT size FROM blobs WHERE diff_id IS NULL OR diff_id NOT IN"
        " (SELECT diff_id FROM records WHERE diff_id IS NOT NULL)"
    )
    return _blocks(store.root) * _BLOCK + sum(_rounded(size, block) for (size,) in others)


def _blocks(root: Path) -> int:
    """Return the blocks under a root, without snapshots, blobs, and what is mounted there."""
    counted_apart = {str(root / "snapshots"), str(root / "blobs" / "sha256")}
    total = os.lstat(root).st_blocks
    stack = [str(root)]
    while stack:
        path = stack.pop()
        try:
            items = os.scandir(path)
        except FileNotFoundError:
            continue
        with items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    if item.name.startswith("mount-") and os.path.ismount(item.path):
                        continue
                    if item.path not in counted_apart:
                        stack.append(item.path)
                try:
                    total += item.stat(follow_symlinks=False).st_blocks
                except FileNotFoundError:  # finished, or gone, while we look
                    continue
    return total


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block


def _is_visible(record: Record, in_use: set[str]) -> bool:
    if record.twin is None:
        return True
    return record.twin not in in_use if record.mutable else record.id in in_use


def _usage(record: Record, *, size: int, in_use: bool, shared: bool) -> UsageRecord:
    return UsageRecord(
        id=record.id,
        parents=record.parents,
        mutable=record.mutable,
        in_use=in_use,
        size=size,
        created=_time(record.created),
        last_used=_time(record.last_used) if record.last_used is not None else None,
        usage_count=record.usage_count,
        description=record.description,
        record_type=record.record_type,
        shared=shared,
    )


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
