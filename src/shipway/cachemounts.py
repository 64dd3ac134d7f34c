"""Cache mounts: named mutable trees that go on from holder to holder, and can be saved and restored.

A name's *state* is a mutable record that is kept when it is let go of, or the immutable one that it was committed to.
Who asks for the name takes up the first kind as it is, and gets a new mutable over the second kind. So a
commit is a moment in time that stays as it is, and the name goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from shipway.boundary import typed_errors
from shipway.errors import Invalid, Locked, NotFound
from shipway.handles import LocalHandle, MutableHandle
from shipway.local.cachemounts import CacheMountNames
from shipway.local.rows import NewRecord, Record
from shipway.local.store import Store
from shipway.refs import CachePolicy, Mount, RecordType
from shipway.trees.copying import copy_entries
from shipway.trees.diff import changes

Sharing = Literal["shared", "private", "locked"]

MAX_LAYERS = 50
"""A state of more layers is copied to a single one before it goes on: each save adds one, and deep trees are slow."""

_PAUSE = 0.05
"""Seconds between two looks whether a name is free."""


@dataclass(frozen=True, slots=True)
class CacheMountRecord:
    """A cache mount as `CacheMounts.records` reports it. Size in bytes, without the layers below."""

    name: str
    id: str
    mutable: bool
    in_use: bool
    size: int
    updated: datetime


@typed_errors
class CacheMountHandle(MutableHandle):
    """A `MutableRef` over a cache mount. Several of one process may share it; `mounted()` then shows one mount."""

    def mount(self, *, readonly: bool = False) -> list[Mount]:
        """Return the mounts that show the tree; `Locked` while others share it, who may have it mounted."""
        if self._store.holds.own(self.id) > 1:
            raise Locked("is shared with others of this process", where=self.id, todo="use mounted(), or wait")
        return super().mount(readonly=readonly)

    def commit(self) -> LocalHandle:
        """Return the tree as it is now, finalized; `Locked` while others share it, who may still write."""
        done = super().commit()
        done.finalize()
        return done


@typed_errors
class CacheMounts:
    """The cache mounts of one store."""

    def __init__(self, store: Store) -> None:
        """Keep them in `store`."""
        self._store = store
        self._names = CacheMountNames(store.database)

    def take(
        self, name: str, parent: Record | None, sharing: Sharing = "shared", timeout: float | None = None
    ) -> CacheMountHandle:
        """Return a hold on the mount `name`; see `Cache.mutable`."""
        if not name or sharing not in get_args(Sharing):
            raise Invalid(f"not a cache mount: name {name!r}, sharing {sharing!r}")
        patience = float("inf") if timeout is None and sharing == "locked" else timeout or 0.0
        until = time.monotonic() + patience
        while True:
            with self._alone(name):
                record = self._try(name, parent, sharing)
            if record is not None:
                return CacheMountHandle(self._store, record)
            if time.monotonic() >= until:
                raise Locked("the cache mount is in use", where=name, todo="wait until its holder lets go of it")
            time.sleep(_PAUSE)

    def _try(self, name: str, parent: Record | None, sharing: Sharing) -> Record | None:
        """Return a held record for one more holder of `name`, or None if it cannot be had now."""
        for state in self._names.states(name):
            try:
                record = self._take_up(name, state, sharing)
            except NotFound:
                self._names.forget(name, state)
                continue
            if record is not None or sharing != "private":
                return record
        below = self._store.finalize(parent) if parent is not None else None
        record = self._store.new_mutable(below, _new(name))
        self._names.add(name, record.id)
        return record

    def _take_up(self, name: str, state: str, sharing: Sharing) -> Record | None:
        record = self._store.records.get(state)
        if not record.mutable:
            return self._go_on(name, record)
        try:
            return self._store.hold_mutable(state)
        except Locked:
            if record.twin is not None:  # committed by its id; finalizing makes the name go on with that
                return self._go_on(name, self._store.finalize(self._store.records.get(record.twin)))
            return self._store.records.hold_again(state) if sharing == "shared" else None

    def _go_on(self, name: str, record: Record) -> Record:
        """Return a new mutable record over an immutable one, which the name goes on with."""
        with LocalHandle(self._store, self._store.records.hold_immutable(record.id)):
            below = self._store.finalize(record)
            if len(self._store.layers(below)) < MAX_LAYERS:
                new = self._store.new_mutable(below, _new(name))
            else:
                with LocalHandle(self._store, self._flat(below, name)) as flat:
                    new = self._store.new_mutable(self._store.records.get(flat.id), _new(name))
            self._names.replace(name, record.id, new.id)
            return new

    def _flat(self, record: Record, name: str) -> Record:
        """Return the held record of a copy of a tree in a single layer."""
        key = self._store.records.reserve_snapshot()
        with self._store.giving_up(key), self._store.tree(record) as tree, self._store.driver.writer([key]) as sink:
            copy_entries(changes(None, tree), tree, sink)
            sink.finish()
            return self._store.records.add(_new(name), mutable=False, snapshot=key)

    def commit(self, name: str) -> LocalHandle:
        """Return the state of `name` as an immutable ref; if nothing changed since it was last, the same one.

        `NotFound` if there is no such mount, `Locked` if it is in use.
        """
        with self._alone(name):
            state, record = self._state(name)
            if not record.mutable:
                return LocalHandle(self._store, self._store.records.hold_immutable(state))
            with CacheMountHandle(self._store, self._store.hold_mutable(state)) as handle:
                if record.parents and not self._store.driver.changes(self._store.own_chain(record)):
                    kept = LocalHandle(self._store, self._store.records.hold_immutable(record.parents[0]))
                    self._names.replace(name, state, kept.id)
                    handle.metadata.policy = CachePolicy.DEFAULT  # it goes when it is let go of
                    return kept
                return handle.commit()

    def restore(self, name: str, ref: LocalHandle) -> None:
        """Make `name` go on from `ref`, whatever its state was; `Locked` if it is in use."""
        with self._alone(name):
            ref.finalize()
            self._drop(name)
            self._names.add(name, ref.id)

    def remove(self, name: str) -> None:
        """Forget `name`, and remove what only it kept. `NotFound`, `Locked` if it is in use."""
        with self._alone(name):
            self._state(name)
            self._drop(name)

    def records(self) -> Iterator[CacheMountRecord]:
        """Yield all cache mounts, in the order of names."""
        self._store.reclaim()
        for name, state, updated in self._names.all():
            record = self._store.records.find(state)
            if record is not None:
                yield CacheMountRecord(
                    name,
                    state,
                    record.mutable,
                    self._store.holds.is_held(state),
                    self._store.size(record),
                    datetime.fromtimestamp(updated / 1e9, UTC),
                )

    def _state(self, name: str) -> tuple[str, Record]:
        for state in self._names.states(name):
            record = self._store.records.find(state)
            if record is not None:
                return state, record
        raise NotFound("no such cache mount", where=name, todo="`shipway cachemount ls` lists them")

    def _drop(self, name: str) -> None:
        states = self._names.states(name)
        records = [record for state in states if (record := self._store.records.find(state)) is not None]
        if any(record.mutable and self._store.holds.is_held(record.id) for record in records):
            raise Locked("the cache mount is in use", where=name, todo="let go of it, or unmount it, first")
        for state in states:
            self._names.forget(name, state)
        for record in records:
            if record.mutable:
                try:
                    self._store.drop_snapshots(self._store.records.remove(record.id))
                except (Locked, NotFound):  # what it was committed to is held: an ordinary ref from now on
                    continue

    def _alone(self, name: str) -> AbstractContextManager[None]:
        return self._store.leases.locked("cachemount-" + hashlib.sha256(name.encode()).hexdigest()[:32])


def _new(name: str) -> NewRecord:
    return NewRecord(policy=CachePolicy.RETAIN, record_type=RecordType.CACHE_MOUNT, description=f"cache mount {name}")
