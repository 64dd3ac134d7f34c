"""Prune: a plan, made of the books alone, and carrying it out.

The plan decides on every record, with a reason. Only what nobody holds, nothing else stands on and the
options allow can go. If sizes are given, blobs go first that can be made again of a snapshot (those that were
packed here, then those that came from elsewhere, which would be packed to other bytes), and only then trees: the
least recently used first, and those that were used often later. Before all of it goes what is kept of remote layers.
"""

from __future__ import annotations

import heapq
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta

from shipway.errors import Locked
from shipway.local.contents import learn_blob
from shipway.local.filters import parse_filters
from shipway.local.keeping import PruneOptions, bytes_to_keep
from shipway.local.store import Store
from shipway.local.usage import Accounts, Blob, accounts, overhead
from shipway.refs import PruneDecision, RecordType, UsageRecord, Verdict

GRACE_SECONDS = 3600.0
"""How long a blob may wait for the manifest that will refer to it."""

_COPIED = [field.name for field in fields(UsageRecord)]
_BATCH = 100
"""Blobs or records that are removed in one transaction: others wait for it."""
_BATCH_BYTES = 16 << 20
"""With so much to free a batch of records is full: whoever is killed leaves the files of one batch behind."""


def prune(
    store: Store,
    options: PruneOptions,
    ids: Iterable[str] | None = None,
    *,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> list[PruneDecision]:
    """Remove what `options` say, of the records in `ids` if those are given; return what was done, in that order.

    A dry run does nothing, and returns a decision for every record of the store, also for those that stay.
    It ends early, and whole, when `stopped` says so: it is asked after each removal of a record or a batch of blobs.
    Raises `Invalid` for a filter that is none; with `ids`, `NotFound` or `Locked` for one that cannot
    be removed, before any is.
    """
    books = accounts(store)
    named = None if ids is None else _named(store, ids, books)
    excess = _excess(store, books, options)
    if named is None and not options.filters and not dry_run and (excess is None or excess > 0):
        freed = store.kept.free(excess, unused_for=options.keep_duration)  # what can be fetched again goes first
        excess = None if excess is None else excess - freed
    plan = Plan(books, options, named, excess)
    decisions = plan.decide()
    if dry_run:
        return decisions
    done: list[PruneDecision] = []
    for batch in _carried_out(store, decisions, plan.dropped, stopped):
        done += batch
        if stopped():
            break
    collect(store)
    return done


def collect(store: Store) -> None:
    """Remove manifests and blobs that nothing refers to any more."""
    for digest in store.tags.collect(GRACE_SECONDS):
        store.blobs.forget(digest)


def _excess(store: Store, books: Accounts, options: PruneOptions) -> int | None:
    """Return the bytes that are to go; None for all."""
    if not options.has_sizes:
        return None
    total = sum(row.size for row in books.rows) + overhead(store)
    disk = os.statvfs(store.root)
    keep = bytes_to_keep(
        total,
        disk.f_bavail * disk.f_frsize,
        reserved=options.reserved_space,
        max_used=options.max_used_space,
        min_free=options.min_free_space,
    )
    return total - keep


def _named(store: Store, ids: Iterable[str], books: Accounts) -> set[str]:
    rows = {row.id: row for row in books.rows}
    wanted = set()
    for record_id in ids:
        record = store.records.get(record_id)
        row = rows.get(record_id) or rows[record.twin or ""]
        if row.in_use:
            raise Locked("is in use", where=record_id, todo="release it first")
        wanted.add(row.id)
    parents = Counter(parent for row in books.rows if row.id not in wanted for parent in row.parents)
    for record_id in sorted(wanted):
        if parents[record_id]:
            raise Locked(f"{parents[record_id]} other refs stand on it", where=record_id, todo="remove those first")
    return wanted


class Plan:
    """Decides which records go, until `excess` bytes are freed (None: as many as may go)."""

    def __init__(
        self, books: Accounts, options: PruneOptions, named: set[str] | None = None, excess: int | None = None
    ) -> None:
        """Plan for the store whose books these are; `named` are the only ids that may go, if given."""
        self._books = books
        self._options = options
        self._named = named
        self._excess = excess
        self._rows = {row.id: row for row in books.rows}
        self._children = Counter(parent for row in books.rows for parent in row.parents)
        self._sharing = Counter(books.diff_ids.values())
        self.dropped: dict[str, list[Blob]] = {}
        """Blobs that go before any record does, by the id of a record that has their layer."""
        self._blobs = {diff_id: list(blobs) for diff_id, blobs in books.blobs.items()}

    def decide(self) -> list[PruneDecision]:
        """Return a decision for every record: those that go in the order in which they do, then those that stay."""
        kept = dict(self._spared())
        free = [row for row in self._books.rows if row.id not in kept]
        scores = dict(zip([row.id for row in free], _scores(free), strict=True))
        if self._options.has_sizes:
            for packed in (True, False):
                self._drop_blobs(sorted(free, key=lambda row: scores[row.id]), packed=packed)
        removed = self._remove(free, scores)
        gone = {decision.id for decision in removed}
        slimmed = [
            _decision(self._rows[one], Verdict.DROP_BLOBS, "its blob can be made again of its files", _sum(blobs))
            for one, blobs in self.dropped.items()
            if one not in gone
        ]
        rest = [
            _decision(row, Verdict.KEEP, kept.get(row.id) or self._why_left(row), 0)
            for row in self._books.rows
            if row.id not in gone and row.id not in self.dropped
        ]
        return [*slimmed, *removed, *rest]

    def _spared(self) -> Iterator[tuple[str, str]]:
        """Yield the id of each record that must not go, and why not."""
        matches = parse_filters(self._options.filters)
        duration = self._options.keep_duration
        used_after = datetime.now(UTC) - timedelta(seconds=duration) if duration is not None else None
        for row in self._books.rows:
            if row.in_use:
                yield row.id, "it is in use: held, or below something that is"
            elif self._named is not None and row.id not in self._named:
                yield row.id, "it was not named"
            elif not self._options.everything and row.record_type in (RecordType.INTERNAL, RecordType.FRONTEND):
                yield row.id, f"its type is {row.record_type.value}"
            elif not matches(row):
                yield row.id, "no filter means it"
            elif used_after is not None and _last_used(row) > used_after:
                yield row.id, "it was used lately"

    def _drop_blobs(self, rows: Sequence[UsageRecord], *, packed: bool) -> None:
        """Plan to drop blobs of layers all of whose records may go, until enough is freed."""
        free = Counter(self._books.diff_ids[row.id] for row in rows if row.id in self._books.diff_ids)
        for row in rows:
            diff_id = self._books.diff_ids.get(row.id)
            if diff_id is None or free[diff_id] < self._sharing[diff_id]:
                continue
            if not self._wants_more():
                return
            blobs = [blob for blob in self._blobs.get(diff_id, ()) if blob.packed is packed]
            if blobs:
                self._blobs[diff_id] = [blob for blob in self._blobs[diff_id] if blob.packed is not packed]
                self.dropped.setdefault(row.id, []).extend(blobs)
                self._free(_sum(blobs))

    def _remove(self, free: Sequence[UsageRecord], scores: dict[str, float]) -> list[PruneDecision]:
        """Plan to remove records, those with low scores first and children before parents, until enough is freed."""
        order = {row.id: (scores[row.id], _last_used(row), row.id) for row in free}
        ready = [order[row.id] for row in free if self._children[row.id] <= 0]
        heapq.heapify(ready)
        removed = []
        while ready and self._wants_more():
            _, _, record_id = heapq.heappop(ready)
            row = self._rows[record_id]
            reason = "nobody holds it"
            if self._excess is not None:
                reason = f"least recently used, and {self._excess} bytes are still to go"
            freed = self._freed(record_id)
            self._free(freed)
            removed.append(_decision(row, Verdict.REMOVE, reason, freed + _sum(self.dropped.get(record_id, ()))))
            for parent in row.parents:
                self._children[parent] -= 1
                if self._children[parent] == 0 and parent in order:
                    heapq.heappush(ready, order[parent])
        return removed

    def _freed(self, record_id: str) -> int:
        """Return the bytes that go with a record: its snapshots, and its blobs if it is the last that has them."""
        freed = self._books.snapshot_sizes[record_id]
        diff_id = self._books.diff_ids.get(record_id)
        if diff_id is not None:
            self._sharing[diff_id] -= 1
            if self._sharing[diff_id] == 0:
                freed += _sum(self._blobs.get(diff_id, ()))
        return freed

    def _wants_more(self) -> bool:
        return self._excess is None or self._excess > 0

    def _free(self, size: int) -> None:
        if self._excess is not None:
            self._excess -= size

    def _why_left(self, row: UsageRecord) -> str:
        if self._children[row.id] > 0:
            return "something that stays stands on it"
        return "enough is free without it"


def _scores(rows: Sequence[UsageRecord]) -> list[float]:
    """Return how much each row is worth keeping, from 0 to 2: its place by last use plus its place by usage count.

    Places, not values: a gap of a year is one step, and so is one of a thousand uses. Equal values share a place.
    """
    times = sorted({_last_used(row) for row in rows})
    counts = sorted({row.usage_count for row in rows})
    last, most = max(len(times) - 1, 1), max(len(counts) - 1, 1)
    return [bisect_left(times, _last_used(row)) / last + bisect_left(counts, row.usage_count) / most for row in rows]


def _carried_out(
    store: Store,
    plan: Sequence[PruneDecision],
    blobs: Mapping[str, Sequence[Blob]],
    stopped: Callable[[], bool],
) -> Iterator[list[PruneDecision]]:
    """Do what was planned, and yield what could be done, batch by batch: others may have taken something since."""
    slimmed = [one for one in plan if one.verdict is Verdict.DROP_BLOBS]
    for start in range(0, len(slimmed), _BATCH):
        batch = slimmed[start : start + _BATCH]
        dropped = _drop(store, [blob for one in batch for blob in blobs[one.id]])
        yield [one for one in batch if any(blob.digest in dropped for blob in blobs[one.id])]
    for batch in _batches(one for one in plan if one.verdict is Verdict.REMOVE):
        removed = store.records.remove_unused(_until(stopped, batch))
        store.drop_snapshots([key for keys in removed.values() for key in keys])
        yield [one for one in batch if one.id in removed]


def _until(stopped: Callable[[], bool], batch: Iterable[PruneDecision]) -> Iterator[str]:
    """Yield the ids of a batch, as long as nobody wants to stop after one."""
    for one in batch:
        yield one.id
        if stopped():
            return


def _batches(decisions: Iterable[PruneDecision]) -> Iterator[list[PruneDecision]]:
    """Yield decisions a few at a time, and what frees much by itself or with little else."""
    batch: list[PruneDecision] = []
    size = 0
    for one in decisions:
        batch.append(one)
        size += one.freed
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _drop(store: Store, blobs: Sequence[Blob]) -> set[str]:
    """Remove blobs whose layers nobody has in use by now; return the digests of those that went."""
    dropped = set()
    for blob in blobs:
        known = store.blobs.get(blob.digest)
        if known is not None:
            learn_blob(store, known)  # as long as there is a table of contents to learn from
    with store.database.write():
        in_use = store.holds.in_use()
        for blob in blobs:
            if store.tags.let_go_of_blob(blob.digest, in_use):
                store.blobs.forget_row(blob.digest)
                dropped.add(blob.digest)
    for digest in dropped:
        store.blobs.remove_file(digest)
    return dropped


def _decision(row: UsageRecord, verdict: Verdict, reason: str, freed: int) -> PruneDecision:
    values = {name: getattr(row, name) for name in _COPIED}
    return PruneDecision(**values, verdict=verdict, reason=reason, freed=freed)


def _sum(blobs: Iterable[Blob]) -> int:
    return sum(blob.size for blob in blobs)


def _last_used(row: UsageRecord) -> datetime:
    return row.last_used or row.created
