"""du, prune: room on the disk."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from shipway.cli import documents, text
from shipway.cli.records import table
from shipway.cli.session import InSession
from shipway.errors import Invalid


def du(*, session: InSession) -> None:
    """Show what the store's refs take on disk."""
    with session.open() as cache:
        records = list(cache.disk_usage())
    total = sum(record.size for record in records)
    unused = sum(record.size for record in records if not record.in_use)
    document = {"records": list(map(documents.usage, records)), "total": total, "reclaimable": unused}
    lines = [*table(records), f"total {text.size(total)}, of which {text.size(unused)} unused"]
    session.show(document, lines)


def prune(
    *ids: Annotated[str, Parameter(name="ID")],
    everything: Annotated[bool, Parameter(name="--all")] = False,
    session: InSession,
) -> None:
    """Remove refs that nobody holds: those given, or all that are unused.

    Args:
        ids: Ids, or unique prefixes of them.
        everything: All unused refs; the same as giving no ids.
    """
    if ids and everything:
        raise Invalid("either ids or --all, not both", where="prune")
    with session.open() as cache:
        chosen = [cache.find(prefix) for prefix in ids] if ids else None
        removed = list(cache.prune(ids=chosen))
    freed = sum(record.size for record in removed)
    summary = f"removed {text.plural(len(removed), 'ref')}, freed {text.size(freed)}"
    session.show({"removed": list(map(documents.usage, removed)), "freed": freed}, [*table(removed), summary])
