"""Mounts that outlive the process that makes them: holds that last as long as the mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from shipway.errors import Invalid, NotFound, Unavailable
from shipway.handles import Handle, LocalHandle, MutableHandle
from shipway.local.rows import NewRecord
from shipway.local.store import Store
from shipway.refs import CachePolicy
from shipway.snapshots.mount import mount_all, unmount


def mount_at(store: Store, target: str | Path, take: Callable[[], Handle], *, readonly: bool) -> str:
    """Mount what `take` gives a hold on at an existing directory, which holds it from then on; return its id.

    `Unavailable` where mounting is not allowed; nothing is taken then.
    """
    target = os.path.realpath(target)
    if not store.driver.can_mount:
        raise Unavailable(f"cannot mount: {store.driver.reason}", where=target, todo="use `shipway extract` instead")
    with take() as handle:
        mount_all(handle.mount(readonly=readonly), target)
        store.holds.add_mount(target, handle.id)
        return handle.id


def to_mount(store: Store, ref_id: str, *, writable: bool) -> Handle:
    """Return a hold on a ref to mount: on a mutable one itself; `writable`, on a new mutable one over another."""
    record = store.records.get(ref_id)
    if record.mutable:
        return MutableHandle(store, store.hold_mutable(ref_id))
    handle = LocalHandle(store, store.records.hold_immutable(ref_id))
    if not writable:
        return handle
    with handle:
        below = store.finalize(record)
        new = NewRecord(policy=CachePolicy.RETAIN, description=record.description)
        return MutableHandle(store, store.new_mutable(below, new))


def unmount_at(store: Store, target: str | Path, *, commit: bool = False) -> str | None:
    """Undo `mount_at`; return the id of the ref it was, with `commit` of the new immutable one."""
    target = os.path.realpath(target)
    mounted = dict(store.holds.mounts()).get(target)
    if mounted is None:
        raise NotFound("nothing of this store is mounted there", where=target)
    if commit and not store.records.get(mounted).mutable:
        raise Invalid("a read-only mount has nothing to commit", where=target, todo="mount it with --writable")
    unmount(target)
    store.holds.take_mount(target)
    record = store.records.get(mounted)
    if not commit:
        store.drop_snapshots(store.records.release(mounted))
        return mounted
    with MutableHandle(store, record) as handle, handle.commit() as done:
        done.finalize()
        return done.id
