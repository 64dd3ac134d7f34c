"""commit, ls, show: what is in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.cli import documents, naming, text
from shipway.cli.progress import shown
from shipway.cli.session import InSession
from shipway.errors import NotFound
from shipway.refs import RemoteImmutableRef, UsageRecord

if TYPE_CHECKING:
    from shipway.cache import Cache

COLUMNS = ("id", "size", "created", "kind", "use", "description")


def commit(
    directory: Path,
    /,
    *,
    parent: str | None = None,
    description: str = "",
    key: str | None = None,
    session: InSession,
) -> None:
    """Make a ref of a directory as it is now, and print its id.

    Args:
        directory: The directory whose tree is taken.
        parent: A ref that it continues; only what differs is stored.
        description: A line for people; the directory's path by default.
        key: A cache key to put it under.
    """
    with session.open() as cache, shown(session) as progress:
        below = naming.local_ref(cache, parent) if parent is not None else None
        with cache.import_tree(directory, below, description=description, progress=progress) as ref:
            if key is not None:
                cache.put(key, ref)
            document = {"id": ref.id, "parent": below.id if below else None, "size": session.size_of(ref), "key": key}
    session.show(document, [ref.id])


def ls(*, session: InSession) -> None:
    """List the refs of the store, oldest first."""
    with session.open() as cache:
        records = cache.disk_usage()
    session.show(map(documents.usage, records), table(records))


def table(records: Iterable[UsageRecord]) -> Iterator[str]:
    """Yield a line for each record."""
    rows = (
        (
            record.id,
            text.size(record.size),
            text.when(record.created),
            "mutable" if record.mutable else "immutable",
            "in-use" if record.in_use else "unused",
            record.description,
        )
        for record in records
    )
    return text.table(rows, COLUMNS, right=["size"])


def show(ref: str, /, *, session: InSession) -> None:
    """Show all that is known about a ref.

    Args:
        ref: An id, a unique prefix of one, key:NAME, or oci://…
    """
    with session.open() as cache:
        if naming.is_reference(ref):
            document = _remote(cache, ref)
        elif ref.startswith(naming.KEY):
            with naming.any_ref(cache, ref) as found:
                remote = isinstance(found, RemoteImmutableRef)
            document = _remote(cache, found.id) if remote else _local(cache, found.id)
        else:
            document = _local(cache, cache.find(ref))
    session.show(document, text.described(document))


def _local(cache: Cache, ref_id: str) -> documents.Document:
    record = next(iter(cache.disk_usage([f"id=={ref_id}"])), None)
    if record is None:
        raise NotFound("is no longer in this store", where=ref_id)
    document = documents.usage(record)
    document["keys"] = [found.key for found in cache.keys(ref_id)]
    if not record.mutable:
        with cache.get(ref_id) as ref:
            document |= {"policy": ref.metadata.policy.value, "labels": dict(ref.metadata.labels)}
    return document


def _remote(cache: Cache, reference: str) -> documents.Document:
    with cache.remote(reference) as ref:
        meta = ref.metadata
        return {
            "reference": ref.id,
            "size": ref.size(),
            "created": text.iso(meta.created),
            "labels": dict(meta.labels),
        }
