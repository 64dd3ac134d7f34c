"""Making the records of merges and differences. No file is touched."""

from __future__ import annotations

from collections.abc import Sequence

from shipway.local.rows import NewRecord, Record
from shipway.local.store import Store


def merge(store: Store, inputs: Sequence[Record]) -> Record:
    """Return the held record of a merge of several records, which are finalized.

    Merges among the inputs are replaced by their own inputs, so merging is associative.
    """
    parents: list[str] = []
    for record in inputs:
        final = store.finalize(record)
        parents += final.parents if final.kind == "merge" else (final.id,)
    new = NewRecord(description=f"merge of {len(parents)}")
    return store.records.add(new, mutable=False, snapshot=None, parents=parents, kind="merge")


def diff(store: Store, lower: Record, upper: Record | None) -> Record:
    """Return the held record of what makes `upper` of `lower`, or deletes all of it; both are finalized."""
    parents = [store.finalize(record).id for record in (lower, upper) if record is not None]
    new = NewRecord(description="diff" if upper is not None else "deletion")
    return store.records.add(new, mutable=False, snapshot=None, parents=parents, kind="diff")
