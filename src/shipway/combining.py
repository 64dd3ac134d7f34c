"""Merges and differences of refs, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from shipway.handles import LocalHandle, own
from shipway.local import combining
from shipway.local.store import Store
from shipway.refs import AnyRef
from shipway.remote_handles import RemoteHandle
from shipway.transfer.sources import between, merged


def merge(store: Store, refs: Sequence[AnyRef]) -> LocalHandle | RemoteHandle | None:
    """Return the trees of `refs` laid over each other; see `Cache.merge`."""
    if not refs:
        return None
    remote = [ref for ref in refs if isinstance(ref, RemoteHandle)]
    if len(remote) == len(refs):
        name = remote[0].id if len(remote) == 1 else f"merge({', '.join(ref.id for ref in remote)})"
        return RemoteHandle(store, name, merged([ref.layers for ref in remote]))
    with ExitStack() as stack:
        local = [_pulled(store, ref, stack) for ref in refs]
        if len(local) == 1:
            return LocalHandle(store, store.records.hold_immutable(local[0].id))
        return LocalHandle(store, combining.merge(store, [ref.record() for ref in local]))


def diff(store: Store, lower: AnyRef | None, upper: AnyRef | None) -> LocalHandle | RemoteHandle | None:
    """Return what makes `upper` of `lower`; see `Cache.diff`."""
    if lower is None:
        return None if upper is None else merge(store, [upper])
    if isinstance(lower, RemoteHandle) and isinstance(upper, RemoteHandle):
        layers = between(lower.layers, upper.layers)
        if layers is not None:
            return RemoteHandle(store, f"diff({lower.id}, {upper.id})", layers)
    with ExitStack() as stack:
        below = _pulled(store, lower, stack).record()
        above = _pulled(store, upper, stack).record() if upper is not None else None
        return LocalHandle(store, combining.diff(store, below, above))


def _pulled(store: Store, ref: AnyRef, stack: ExitStack) -> LocalHandle:
    return stack.enter_context(ref.pull()) if isinstance(ref, RemoteHandle) else own(store, ref)
