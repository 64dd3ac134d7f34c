"""du, prune: room on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shipway.cli import documents, text
from shipway.cli.records import table
from shipway.cli.session import InSession
from shipway.errors import Invalid
from shipway.quantities import duration, size
from shipway.refs import PruneDecision, Verdict

Filters = Annotated[tuple[str, ...], Parameter(name="--filter", consume_multiple=False)]


def du(*, filters: Filters = (), verbose: bool = False, session: InSession) -> None:
    """Show what the store's refs take on disk.

    Args:
        filters: Only refs that it means, such as type==regular,description~=PATTERN or inuse; may be repeated.
        verbose: Show all that is known about each.
    """
    with session.open() as cache:
        records = list(cache.disk_usage(filters))
        overhead = cache.overhead()
    refs = sum(record.size for record in records)
    unused = sum(record.size for record in records if not record.in_use)
    found = list(map(documents.usage, records))
    document = {"records": found, "total": refs, "reclaimable": unused, "overhead": overhead}
    lines = [line for one in found for line in (*text.described(one), "")] if verbose else table(records)
    last = f"total {text.size(refs)}, of which {text.size(unused)} unused"
    session.show(document, [*lines, f"{last}; {text.size(overhead)} are no ref's"])


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
        removing = cache.prune(
            ids=chosen,
            filters=filters,
            keep_duration=kept,
            reserved_space=_bytes("--reserved-space", reserved_space, cache.root),
            max_used_space=_bytes("--max-used-space", max_used_space, cache.root),
            min_free_space=_bytes("--min-free-space", min_free_space, cache.root),
            dry_run=dry_run,
        )
        decisions = list(removing)
    _show(decisions, session, dry_run=dry_run)


def _bytes(option: str, value: str | None, root: Path) -> int | None:
    return size(value, where=option).on(root) if value is not None else None


def _show(decisions: list[PruneDecision], session: InSession, *, dry_run: bool) -> None:
    removed = [one for one in decisions if one.verdict is not Verdict.KEEP]
    freed = sum(one.freed for one in removed)
    document = {"removed": list(map(documents.decision, removed)), "freed": freed}
    if dry_run:
        document["kept"] = [documents.decision(one) for one in decisions if one.verdict is Verdict.KEEP]
    rows = ((one.id, one.verdict.value, text.size(one.freed), one.reason, one.description) for one in decisions)
    lines = text.table(rows, ("id", "verdict", "frees", "reason", "description"), right=["frees"])
    verbs = ("would remove", "would free") if dry_run else ("removed", "freed")
    count = sum(one.verdict is Verdict.REMOVE for one in removed)
    session.show(document, [*lines, f"{verbs[0]} {text.plural(count, 'ref')}, {verbs[1]} {text.size(freed)}"])
