"""Mounts that outlive the process that makes them: holds that last as long as the mount."""

from __future__ import annotations

import os
from pathlib import Path

from shipway.errors import Invalid, NotFound, Unavailable
from shipway.handles import Handle, MutableHandle
from shipway.local.store import Store
from shipway.snapshots.mount import mount_all, unmount


def check_mountable(store: Store, target: str) -> None:
    """Raise `Unavailable` where mounting is not allowed."""
    if not store.driver.can_mount:
        raise Unavailable(f"cannot mount: {store.driver.reason}", where=target, todo="use `shipway extract` instead")


def mount_at(store: Store, handle: Handle, target: str, *, readonly: bool) -> None:
    """Mount what `handle` holds at an existing directory, which holds it from then on."""
    mount_all(handle.mount(readonly=readonly), target)
    store.records.add_mount(target, handle.id)


def unmount_at(store: Store, target: str | Path, *, commit: bool = False) -> str | None:
    """Undo `mount_at`; return the id of the ref it was, with `commit` of the new immutable one."""
    target = os.path.realpath(target)
    mounted = dict(store.records.mounts()).get(target)
    if mounted is None:
        raise NotFound("nothing of this store is mounted there", where=target)
    if commit and not store.records.get(mounted).mutable:
        raise Invalid("a read-only mount has nothing to commit", where=target, todo="mount it with --writable")
    unmount(target)
    store.records.take_mount(target)
    record = store.records.get(mounted)
    if not commit:
        store.drop_snapshots(store.records.release(mounted))
        return mounted
    with MutableHandle(store, record) as handle, handle.commit() as done:
        done.finalize()
        return done.id
