"""Prune: a plan is made, and carried out a batch at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from shipway.errors import Locked, NoSpace, NotFound
from shipway.local.books import Books
from shipway.local.contents import learn_blob
from shipway.local.keeping import PruneOptions, bytes_to_keep
from shipway.local.plan import Plan, Step
from shipway.local.store import Store
from shipway.local.usage import overhead
from shipway.refs import PruneDecision, Verdict

GRACE_SECONDS = 3600.0
"""How long a blob may wait for the manifest that will refer to it."""

_BATCH = 100
"""Blobs or records that are removed in one transaction: others wait for it."""
_BATCH_BYTES = 16 << 20
"""With so much to free a batch of records is full: whoever is killed leaves the files of one batch behind."""


def prune(
    store: Store,
    options: PruneOptions,
    ids: Collection[str] | None = None,
    *,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[PruneDecision]:
    """Remove what `options` say, of the records in `ids` if those are given; return what was done, in that order.

    It is done when the call returns. A dry run does nothing, and returns a decision for every record of the store,
    also for those that stay. It ends early, and whole, when `stopped` says so: it is asked after each removal of a
    record or a batch of blobs. Raises `Invalid` for a filter that is none; with `ids`, `NotFound` or `Locked` for one
    that cannot be removed, before any is.
    """
    try:
        plan = _planned(store, options, ids, dry_run=dry_run)
    except NoSpace:  # which is why it is to be made
        plan = _planned(store, options, ids, dry_run=dry_run, in_memory=True)
    if not dry_run:
        _carry_out(store, plan, stopped)
        collect(store)
    return plan.decisions()


def _planned(
    store: Store, options: PruneOptions, ids: Collection[str] | None, *, dry_run: bool, in_memory: bool = False
) -> Plan:
    """Return a plan; what is kept of remote layers goes first, and is gone when it is there."""
    needs_all = ids is None or options.has_sizes or dry_run
    books = Books(store, None if needs_all else ids, in_memory=in_memory)
    named = None if ids is None else _named(store, ids, books)
    excess = _excess(store, books, options)
    if named is None and not options.filters and not dry_run and (excess is None or excess > 0):
        freed = store.kept.free(excess, unused_for=options.keep_duration)  # what can be fetched again goes first
        excess = None if excess is None else excess - freed
    return Plan(books, options, named=named, excess=excess, whole=dry_run)


def collect(store: Store) -> None:
    """Remove manifests and blobs that nothing refers to any more."""
    for digest in store.tags.collect(GRACE_SECONDS):
        store.blobs.forget(digest)


def _excess(store: Store, books: Books, options: PruneOptions) -> int | None:
    """Return the bytes that are to go; None for all."""
    if not options.has_sizes:
        return None
    total = books.total() + overhead(store)
    disk = os.statvfs(store.root)
    keep = bytes_to_keep(
        total,
        disk.f_bavail * disk.f_frsize,
        reserved=options.reserved_space,
        max_used=options.max_used_space,
        min_free=options.min_free_space,
    )
    return total - keep


def _named(store: Store, ids: Iterable[str], books: Books) -> set[str]:
    """Return the ids of the books' rows for some records, all of which can be removed."""
    with books.tables.transaction() as db:
        db.execute("CREATE INDEX temp.books_id ON books (id)")
        wanted: dict[str, tuple[int, str]] = {}
        for record_id in ids:
            record = store.records.get(record_id)
            query = "SELECT id, in_use, children, coalesce(parents, '') FROM books WHERE id IN (?, ?)"
            row = db.execute(query, (record_id, record.twin)).fetchone()
            if row is None:
                raise NotFound("is no longer in this store", where=record_id)
            if row[1]:
                raise Locked("is in use", where=record_id, todo="release it first")
            wanted[row[0]] = row[2:]
    among_them = Counter(parent for _, parents in wanted.values() for parent in parents.split())
    for record_id, (children, _) in sorted(wanted.items()):
        if others := children - among_them[record_id]:
            raise Locked(f"{others} other refs stand on it", where=record_id, todo="remove those first")
    return set(wanted)


def _carry_out(store: Store, plan: Plan, stopped: Callable[[], bool]) -> None:
    """Do what was planned, batch by batch. What cannot be done is withdrawn: others may have taken something since."""
    for batch in _batches(plan.steps()):
        if batch[0].verdict == Verdict.DROP_BLOBS:
            blobs = {digest: step for step in batch for digest in _blobs(store, step)}
            went = {blobs[digest].id for digest in _drop(store, blobs)}
        else:
            removed = store.records.remove_unused(_until(stopped, batch))
            store.drop_snapshots([key for keys in removed.values() for key in keys])
            went = set(removed)
        plan.withdraw([step for step in batch if step.id not in went])
        if stopped():
            plan.withdraw(after=batch[-1].turn)
            return


def _blobs(store: Store, step: Step) -> list[str]:
    """Return the digests of the blobs that a step drops."""
    query = "SELECT digest FROM blobs WHERE diff_id = ? AND CASE WHEN packed THEN ? ELSE ? END"
    return [digest for (digest,) in store.database.read(query, step.diff_id, step.packed, step.others)]


def _until(stopped: Callable[[], bool], batch: Iterable[Step]) -> Iterator[str]:
    """Yield the ids of a batch, as long as nobody wants to stop after one."""
    for one in batch:
        yield one.id
        if stopped():
            return


def _batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Yield steps of one kind a few at a time, and what frees much by itself or with little else."""
    for _, alike in groupby(steps, attrgetter("verdict")):
        batch: list[Step] = []
        size = 0
        for step in alike:
            batch.append(step)
            size += step.freed
            if len(batch) == _BATCH or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _drop(store: Store, digests: Collection[str]) -> set[str]:
    """Remove blobs whose layers nobody has in use by now; return the digests of those that went."""
    dropped = set()
    for digest in digests:
        known = store.blobs.get(digest)
        if known is not None:
            learn_blob(store, known)  # as long as there is a table of contents to learn from
    with store.database.write():
        in_use = store.holds.in_use()
        for digest in digests:
            if store.tags.let_go_of_blob(digest, in_use):
                store.blobs.forget_row(digest)
                dropped.add(digest)
    for digest in dropped:
        store.blobs.remove_file(digest)
    return dropped
