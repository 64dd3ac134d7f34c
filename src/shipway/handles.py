"""The refs that `Cache` hands out: the contracts of `shipway.refs`, fulfilled over a store."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from shipway.boundary import typed_errors
from shipway.errors import Invalid, Locked
from shipway.local.answers import RecordChecksums
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.progress import ProgressCallback
from shipway.reading import ShowsTree
from shipway.references import Reference
from shipway.refs import CachePolicy, Extracted, Mount, Pushed, RecordType
from shipway.remotes import open_target
from shipway.remotes.contract import Expected
from shipway.transfer.push import push
from shipway.transfer.reencode import Encoding
from shipway.trees.entry import SeekableTree
from shipway.trees.extract import extract


@typed_errors
class RecordMetadata:
    """A record's metadata; see `shipway.refs.Metadata`."""

    def __init__(self, store: Store, record_id: str) -> None:
        """Read and write the record's row at each access."""
        self._store = store
        self._id = record_id

    @property
    def _record(self) -> Record:
        return self._store.records.get(self._id)

    @property
    def description(self) -> str:
        """A line for people."""
        return self._record.description

    @description.setter
    def description(self, value: str) -> None:
        self._store.records.update(self._id, description=value)

    @property
    def record_type(self) -> RecordType:
        """What the record was made for."""
        return self._record.record_type

    @record_type.setter
    def record_type(self, value: RecordType) -> None:
        self._store.records.update(self._id, record_type=RecordType(value))

    @property
    def policy(self) -> CachePolicy:
        """What happens to it, if mutable, when it is released uncommitted."""
        return self._record.policy

    @policy.setter
    def policy(self, value: CachePolicy) -> None:
        self._store.records.update(self._id, policy=CachePolicy(value))

    @property
    def labels(self) -> Mapping[str, str]:
        """Free-form; set it to change it."""
        return MappingProxyType(self._record.labels)

    @labels.setter
    def labels(self, value: Mapping[str, str]) -> None:
        self._store.records.update(self._id, labels=dict(value))

    @property
    def created(self) -> datetime:
        """When the record was made, in UTC."""
        return _time(self._record.created)

    @property
    def last_used(self) -> datetime | None:
        """When a hold on it was last let go, in UTC; None if never."""
        last_used = self._record.last_used
        return None if last_used is None else _time(last_used)

    @property
    def usage_count(self) -> int:
        """How often a hold on it was let go."""
        return self._record.usage_count


@typed_errors
class Handle:
    """One hold on a record; what mutable and immutable local refs share."""

    def __init__(self, store: Store, record: Record) -> None:
        """Take over a hold that was taken on `record`."""
        self._store = store
        self._id = record.id
        self._lock = threading.Lock()
        self._released = False
        self._mounted = 0

    @property
    def id(self) -> str:
        """The record's id."""
        return self._id

    @property
    def metadata(self) -> RecordMetadata:
        """The record's metadata."""
        self._check()
        return RecordMetadata(self._store, self._id)

    def record(self) -> Record:
        """Return the record as it is now, for the rooms above this one."""
        self._check()
        return self._store.records.get(self._id)

    def size(self) -> int:
        """Return the bytes it takes on disk: snapshot and blobs, without its parents."""
        return self._store.size(self.record())

    def release(self) -> None:
        """Let go; `Locked` while one of its `mounted()` blocks is open."""
        with self._lock:
            if self._released:
                return
            self._not_mounted("released")
            self._released = True
        self._store.drop_snapshots(self._store.records.release(self._id))

    def mount(self, *, readonly: bool = False) -> list[Mount]:
        """Return the mounts that show the tree, valid while the ref is held."""
        record = self.record()
        chain, moved = self._store.stack(record)
        return self._store.driver.mounts(chain, readonly=readonly, settled=not record.mutable, moved=moved)

    @contextmanager
    def mounted(self, *, readonly: bool = False) -> Iterator[Path]:
        """Yield a directory with the tree."""
        with self._lock:
            record = self.record()
            self._mounted += 1
        try:
            chain, moved = self._store.stack(record)
            with self._store.driver.mounted(chain, readonly=readonly, settled=not record.mutable, moved=moved) as path:
                yield path
        finally:
            with self._lock:
                self._mounted -= 1

    def _check(self) -> None:
        if self._released:
            raise Invalid("was released", where=self._id, todo="get it again from the cache")

    def _not_mounted(self, verb: str) -> None:
        if self._mounted:
            raise Locked(f"is mounted and cannot be {verb}", where=self._id, todo="leave its mounted() block first")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id}{' released' if self._released else ''}>"


@typed_errors
class LocalHandle(Handle, ShowsTree):
    """A `LocalImmutableRef`."""

    _checksums: RecordChecksums | None = None

    def finalize(self) -> None:
        """Flush it to the driver; it cannot be reopened for change after that."""
        self._store.finalize(self.record())

    @property
    def parent(self) -> LocalHandle | None:
        """A new hold on the parent; None for a base, a merge or a difference."""
        record = self.record()
        if record.kind != "layer" or not record.parents:
            return None
        return _ParentHandle(self._store, self._store.records.hold_immutable(record.parents[0]))

    @contextmanager
    def tree(self) -> Iterator[SeekableTree]:
        """Yield the tree to be listed and read without mounting it."""
        with self._store.tree(self.record()) as tree:
            yield tree

    def extract(
        self,
        to_path: str | Path,
        *src_paths: str,
        parents: bool = False,
        wildcard: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Extracted:
        """Copy sources into the directory `to_path`; see `shipway.refs.Extractable`."""
        with self._store.tree(self.record()) as tree:
            return extract(tree, to_path, src_paths, parents=parents, wildcard=wildcard, progress=progress)

    def checksum(
        self,
        path: str = "/",
        *,
        follow: bool = True,
        wildcard: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> str:
        """Return a digest of what is at `path`; see `shipway.refs.ImmutableRef`."""
        record = self.record()
        with self._lock:
            if self._checksums is None:
                self._checksums = RecordChecksums(self._store, record)
            checksums = self._checksums
        return checksums.checksum(path, follow=follow, wildcard=wildcard, include=include, exclude=exclude)

    def push(
        self,
        reference: str,
        *,
        compression: str | None = None,
        level: int | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Pushed:
        """Copy the tree, as an OCI image, to where `reference` says; see `shipway.refs.LocalImmutableRef`."""
        encoding = Encoding.of(compression, level, force=force)
        return self.push_to(push_target(reference), encoding=encoding, progress=progress)

    def push_to(
        self,
        target: Reference,
        *,
        encoding: Encoding = Encoding(),  # noqa: B008  a frozen value
        expected: Expected | None = None,
        progress: ProgressCallback | None = None,
    ) -> Pushed:
        """Do what `push` does, with the reference already read, if its tag is as `expected`."""
        record = self._store.finalize(self.record())
        with closing(open_target(target, self._store.registries, self._store.uploads)) as remote:
            return push(
                self._store,
                record,
                remote,
                tag=target.target,
                encoding=encoding,
                expected=expected,
                progress=progress,
            )


class _ParentHandle(LocalHandle):
    """A parent, as the property gives it: dropped unreleased, it lets go by itself.

    Before Python 3.12 `isinstance(ref, LocalImmutableRef)` looks at every
    property, and nobody could release what that comes by.
    """

    def __del__(self) -> None:
        if not self._released and not self._store.closed:
            self.release()


@typed_errors
class MutableHandle(Handle):
    """A `MutableRef`."""

    def commit(self) -> LocalHandle:
        """Return the tree as an immutable ref; this handle is used up."""
        with self._lock:
            self._check()
            self._not_mounted("committed")
            record = self._store.records.commit(self._id)
            self._released = True
        self._store.after_commit()
        return LocalHandle(self._store, record)


def own(store: Store, ref: object) -> LocalHandle:
    """Return `ref` as what it is if it is a local immutable ref of `store`; else raise `Invalid`."""
    if not isinstance(ref, LocalHandle) or ref._store is not store:  # noqa: SLF001  same room
        raise Invalid("is not a local immutable ref of this cache", where=getattr(ref, "id", repr(ref)))
    return ref


def push_target(reference: str) -> Reference:
    """Return where a push to `reference` goes; `Invalid` for a digest."""
    target = Reference.parse(reference)
    if target.digest:
        raise Invalid("a push goes to a tag, not to a digest", where=reference)
    return target


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
