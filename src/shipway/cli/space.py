"""du, prune: room on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from shipway.cli import documents, text
from shipway.cli.records import table
from shipway.cli.session import InSession, Members
from shipway.errors import Invalid
from shipway.quantities import duration, size
from shipway.refs import PruneDecision, UsageRecord, Verdict

Filters = Annotated[tuple[str, ...], Parameter(name="--filter", consume_multiple=False)]


def du(*, filters: Filters = (), verbose: bool = False, session: InSession) -> None:
    """Show what the store's refs take on disk.

    Args:
        filters: Only refs that it means, such as type==regular,description~=PATTERN or inuse; may be repeated.
        verbose: Show all that is known about each.
    """
    with session.open() as cache:
        records = cache.disk_usage(filters)
        overhead = cache.overhead()
    tally = _Tally()
    seen = tally.counted(records)
    session.show(Members(_usage(seen, tally, overhead)), _lines(seen, tally, overhead, verbose=verbose))


@dataclass(slots=True)
class _Tally:
    """Bytes that refs take, counted while they are shown."""

    total: int = 0
    unused: int = 0

    def counted(self, records: Iterable[UsageRecord]) -> Iterator[UsageRecord]:
        for record in records:
            self.total += record.size
            self.unused += 0 if record.in_use else record.size
            yield record


def _usage(records: Iterator[UsageRecord], tally: _Tally, overhead: int) -> Iterator[tuple[str, Any]]:
    yield "records", map(documents.usage, records)
    yield from {"total": tally.total, "reclaimable": tally.unused, "overhead": overhead}.items()


def _lines(records: Iterator[UsageRecord], tally: _Tally, overhead: int, *, verbose: bool) -> Iterator[str]:
    if verbose:
        for record in records:
            yield from (*text.described(documents.usage(record)), "")
    else:
        yield from table(records)
    last = f"total {text.size(tally.total)}, of which {text.size(tally.unused)} unused"
    yield f"{last}; {text.size(overhead)} are no ref's"


def prune(
    *ids: Annotated[str, Parameter(name="ID")],
    everything: Annotated[bool, Parameter(name="--all")] = False,
    filters: Filters = (),
    keep_duration: str | None = None,
    reserved_space: str | None = None,
    max_used_space: str | None = None,
    min_free_space: str | None = None,
    dry_run: bool = False,
    session: InSession,
) -> None:
    """Remove refs that nobody holds: those given, or all that are unused.

    Args:
        ids: Ids, or unique prefixes of them.
        everything: All unused refs; the same as giving no ids.
        filters: Only refs that it means, such as type==regular,description~=PATTERN; may be repeated.
        keep_duration: Keep what was used in that time, such as 48h.
        reserved_space: Stop when the store has shrunk to that size, such as 1GB or 5%.
        max_used_space: Bring the store down to that size.
        min_free_space: Bring the disk to have that much free.
        dry_run: Remove nothing; say of each ref what would become of it, and why.
    """
    if ids and everything:
        raise Invalid("either ids or --all, not both", where="prune")
    with session.open() as cache:
        chosen = [cache.find(prefix) for prefix in ids] if ids else None
        kept = duration(keep_duration, where="--keep-duration") if keep_duration is not None else None
        decided = cache.prune(
            ids=chosen,
            filters=filters,
            keep_duration=kept,
            reserved_space=_bytes("--reserved-space", reserved_space, cache.root),
            max_used_space=_bytes("--max-used-space", max_used_space, cache.root),
            min_free_space=_bytes("--min-free-space", min_free_space, cache.root),
            dry_run=dry_run,
        )
    removed = _Removed(decided)
    session.show(Members(_decisions(removed, dry_run=dry_run)), _table(removed, dry_run=dry_run))


def _bytes(option: str, value: str | None, root: Path) -> int | None:
    return size(value, where=option).on(root) if value is not None else None


class _Removed:
    """Decisions of a prune, what goes first, counted while they are shown."""

    def __init__(self, decisions: Iterator[PruneDecision]) -> None:
        self._decisions = decisions
        self._kept: list[PruneDecision] = []
        self.refs = 0
        self.freed = 0

    def going(self) -> Iterator[PruneDecision]:
        """Yield what goes."""
        for one in self._decisions:
            if one.verdict is Verdict.KEEP:
                self._kept.append(one)
                return
            self.refs += one.verdict is Verdict.REMOVE
            self.freed += one.freed
            yield one

    def kept(self) -> Iterator[PruneDecision]:
        """Yield the others, after those."""
        return chain(self._kept, self._decisions)


def _decisions(removed: _Removed, *, dry_run: bool) -> Iterator[tuple[str, Any]]:
    yield "removed", map(documents.decision, removed.going())
    yield "freed", removed.freed
    if dry_run:
        yield "kept", map(documents.decision, removed.kept())


def _table(removed: _Removed, *, dry_run: bool) -> Iterator[str]:
    rows = (
        (one.id, one.verdict.value, text.size(one.freed), one.reason, one.description)
        for decisions in (removed.going, removed.kept)
        for one in decisions()
    )
    yield from text.table(rows, ("id", "verdict", "frees", "reason", "description"), right=["frees"])
    verbs = ("would remove", "would free") if dry_run else ("removed", "freed")
    yield f"{verbs[0]} {text.plural(removed.refs, 'ref')}, {verbs[1]} {text.size(removed.freed)}"
