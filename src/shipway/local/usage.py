"""Disk usage and prune: what is kept, what it takes, and what can go."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from shipway.errors import Locked, NotFound
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.refs import UsageRecord

GRACE_SECONDS = 3600.0
"""How long a blob may wait for the manifest that will refer to it."""


def disk_usage(store: Store) -> list[UsageRecord]:
    """Return one row for each tree in the store, oldest first.

    Of a tree that is committed but not finalized, which has two records, it is the one
    that is held; the mutable one if neither is.
    """
    store.reclaim()
    in_use = store.records.in_use()
    records = store.records.all()
    sharing = Counter(record.diff_id for record in records if record.diff_id and not record.mutable)
    return [
        _usage(
            store, record, in_use=record.id in in_use, shared=record.diff_id is not None and sharing[record.diff_id] > 1
        )
        for record in records
        if _is_visible(record, in_use)
    ]


def _is_visible(record: Record, in_use: set[str]) -> bool:
    if record.twin is None:
        return True
    return record.twin not in in_use if record.mutable else record.id in in_use


def _usage(store: Store, record: Record, *, in_use: bool, shared: bool) -> UsageRecord:
    return UsageRecord(
        id=record.id,
        parents=record.parents,
        mutable=record.mutable,
        in_use=in_use,
        size=store.size(record),
        created=_time(record.created),
        last_used=_time(record.last_used) if record.last_used is not None else None,
        usage_count=record.usage_count,
        description=record.description,
        record_type=record.record_type,
        shared=shared,
    )


def prune(store: Store, ids: Iterable[str] | None = None) -> list[UsageRecord]:
    """Remove unused records: all of them, or those named; return what was removed, in that order.

    Nothing that is held goes, nor what stands below something held. Children go
    before their parents, otherwise the least recently used first. With `ids`,
    raises `NotFound` or `Locked` for one that cannot be removed, before any is.
    """
    usage = {row.id: row for row in disk_usage(store)}
    wanted = set(usage) if ids is None else _named(store, ids, usage)
    children = Counter(parent for row in usage.values() for parent in row.parents)
    ready = [(_last_used(row), row.id) for row in usage.values() if row.id in wanted and _is_free(row, children)]
    heapq.heapify(ready)
    removed: list[UsageRecord] = []
    while ready:
        _, record_id = heapq.heappop(ready)
        row = usage[record_id]
        try:
            snapshots = store.records.remove(record_id)
        except (Locked, NotFound):
            continue  # somebody took it, or removed it, since we looked
        store.drop_snapshots(snapshots)
        removed.append(row)
        for parent in row.parents:
            children[parent] -= 1
            if parent in wanted and parent in usage and _is_free(usage[parent], children):
                heapq.heappush(ready, (_last_used(usage[parent]), parent))
    collect(store)
    return removed


def collect(store: Store) -> None:
    """Remove manifests and blobs that nothing refers to any more."""
    for digest in store.tags.collect(GRACE_SECONDS):
        store.blobs.forget(digest)


def _named(store: Store, ids: Iterable[str], usage: dict[str, UsageRecord]) -> set[str]:
    wanted = set()
    for record_id in ids:
        record = store.records.get(record_id)
        row = usage.get(record_id) or usage[record.twin or ""]
        if row.in_use:
            raise Locked("is in use", where=record_id, todo="release it first")
        wanted.add(row.id)
    parents = Counter(parent for row in usage.values() if row.id not in wanted for parent in row.parents)
    for record_id in sorted(wanted):
        if parents[record_id]:
            raise Locked(f"{parents[record_id]} other refs stand on it", where=record_id, todo="remove those first")
    return wanted


def _is_free(row: UsageRecord, children: Counter[str]) -> bool:
    return not row.in_use and children[row.id] <= 0


def _last_used(row: UsageRecord) -> datetime:
    return row.last_used or row.created


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
