"""Snapshots as whole directories: works on any file system and without privileges.

A snapshot's `fs` is the whole tree: the parent's, copied (cloned where the file system can), and
its own changes. What it changes is found by comparing the two. Beside `fs` lie

- `chain`, the keys of the snapshots it was made over: over other ones (a merge), its tree is put together anew
  from its changes and kept as `fs-…`;
- `origin`, for each copied file its inode and change time as they were right after copying.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shipway.errors import Corrupt, ShipwayError
from shipway.refs import Mount
from shipway.snapshots.contract import Chain
from shipway.snapshots.layout import FILES, MERGED, WORK, LayerSink, Layout, sync_files
from shipway.snapshots.mount import filesystem_type, mount_all
from shipway.snapshots.mountpoints import Mountpoints
from shipway.trees.copying import copy_entries
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry, TreeSink, implied
from shipway.trees.packed import PackedEntries
from shipway.trees.system import typed_errors
from shipway.trees.writer import TreeWriter

_CHAIN = "chain"
_ORIGIN = "origin"
_TICK = 0.001
_MAX_TICKS = 1000
#: File systems on which no write, not even through a shared mapping, leaves the change time as it was.
_TELLING = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs"})

_Identity = tuple[int, int]
"""Inode number and change time (ctime, in ns) of a file."""


class NativeDriver:
    """Keeps snapshots as whole directories; mounts nothing but read-only views, where that is allowed."""

    name = "native"
    apart = False

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._mountpoints = Mountpoints(self._layout.root)
        try:
            self.can_mount, how = self._probe()
        except BaseException:
            self._mountpoints.close()
            raise
        self.reason = f"native: works anywhere; {how}"
        self._telling = filesystem_type(self._layout.root) in _TELLING

    def _probe(self) -> tuple[bool, str]:
        """Return whether bind mounts work here, and how that went."""
        point = self._mountpoints.new()
        try:
            mount_all([_bind(self._layout.snapshots, readonly=True)], point)
        except ShipwayError as error:
            point.rmdir()
            return False, error.what
        self._mountpoints.release(point)
        return True, "bind mounts are allowed here"

    def prepare(self, chain: Chain) -> None:
        """Make the active snapshot `chain[-1]` over the others; see `SnapshotDriver.prepare`."""
        self._layout.check_parents(chain)
        with self._layout.staged(chain[-1]) as stage:
            (stage / WORK).mkdir(mode=0o700)
            self._fill(stage, chain)
            self._layout.publish(stage, chain[-1])

    def writer(self, chain: Chain, *, below: Callable[[], Chain] | None = None) -> TreeSink:
        """Return a sink that makes the committed snapshot `chain[-1]`; see `SnapshotDriver.writer`."""
        if below is not None:
            chain = [*below(), *chain]
        self._layout.check_parents(chain)
        stage = self._layout.stage(chain[-1])
        try:
            self._fill(stage, chain)
            return LayerSink(self._layout, chain[-1], stage, TreeWriter(stage / FILES, keep_times=True))
        except BaseException:
            self._layout.discard(stage)
            raise

    def _fill(self, stage: Path, chain: Chain) -> None:
        """Copy the parent's tree to a new snapshot, and note what the copies look like."""
        with typed_errors(chain[-1]):
            self._fill_stage(stage, chain)

    def _fill_stage(self, stage: Path, chain: Chain) -> None:
        (stage / _CHAIN).write_text("".join(f"{key}\n" for key in chain[:-1]))
        if len(chain) == 1:
            _begin(stage)
            return
        _copy(self._files(chain[:-1]), stage / FILES)
        _note_origin(stage)

    def commit(self, key: str) -> None:
        """Make an active snapshot committed; see `SnapshotDriver.commit`."""
        self._layout.commit(key)

    def is_committed(self, key: str) -> bool:
        """Whether `key` is committed; `NotFound` if there is no such snapshot."""
        return self._layout.is_committed(key)

    def mounts(
        self,
        chain: Chain,
        *,
        readonly: bool,
        settled: bool = False,
        moved: Collection[str] = (),  # noqa: ARG002  of the contract
    ) -> list[Mount]:
        """Return the mounts that show the chain's tree; see `SnapshotDriver.mounts`."""
        return [_bind(self._files(chain), readonly=readonly or settled or self.is_committed(chain[-1]))]

    @contextmanager
    def mounted(
        self,
        chain: Chain,
        *,
        readonly: bool,
        settled: bool = False,
        moved: Collection[str] = (),  # noqa: ARG002  of the contract
    ) -> Iterator[Path]:
        """Show the chain's tree; see `SnapshotDriver.mounted`.

        Where mounting is not allowed a settled one is shown as a private copy, another as itself.
        """
        files = self._files(chain)
        settled = settled or self.is_committed(chain[-1])
        if not settled and not (readonly and self.can_mount):
            yield files
        elif self.can_mount:
            point = self._mountpoints.new()
            try:
                mount_all([_bind(files, readonly=True)], point)
            except BaseException:
                self._mountpoints.give_up(point)
                raise
            try:
                yield point
            finally:
                self._mountpoints.release(point)
        else:
            copy = self._mountpoints.new_copy()
            try:
                _copy(files, copy)
                yield copy
            finally:
                self._mountpoints.discard_copy(copy)

    @contextmanager
    def tree(self, chain: Chain) -> Iterator[DirectoryTree]:
        """Return the chain's tree to be read without mounting it."""
        with DirectoryTree(self._files(chain)) as tree:
            yield tree

    @contextmanager
    def files(self, key: str) -> Iterator[DirectoryTree]:
        """Return the files that a snapshot itself holds; see `SnapshotDriver.files`."""
        with DirectoryTree(self._layout.files([key])[0]) as tree:
            yield tree

    def changes(self, chain: Chain) -> PackedEntries[Entry]:
        """Return what `chain[-1]` changes in the tree below it; see `SnapshotDriver.changes`."""
        with self.tree(chain) as upper:
            if len(chain) == 1:
                return changes(None, upper)
            origin = self._origin(chain)
            with self.tree(chain[:-1]) as lower:
                return changes(
                    lower, upper, unchanged=lambda path: path in origin and origin[path] == upper.identity(path)
                )

    def separate(self, chain: Chain, changes: Collection[Entry]) -> bool:
        """Return that it can: over other snapshots its changes are what is applied."""
        del chain, changes
        return True

    def usage(self, key: str, *, linked: bool = False) -> int:
        """Return the bytes the snapshot takes on disk; see `SnapshotDriver.usage`."""
        return self._layout.usage(key, linked=linked)

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is no error."""
        self._layout.remove(key)

    def replace(self, key: str, other: str) -> None:
        """Put one snapshot in the place of another; see `SnapshotDriver.replace`.

        Trees that were put together from several snapshots may hold links to its files: they are made anew.
        """
        self._layout.replace(key, other)
        for one in list(self._layout.keys()):
            directory = self._layout.path(one)
            for name in os.listdir(directory):
                if name.startswith(MERGED):
                    trash = self._layout.stage(one)
                    (directory / name).rename(trash / name)
                    self._layout.discard(trash)

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return what dead processes left mounted, or copied to be shown."""
        return self._mountpoints.leftovers(remove=remove)

    def close(self) -> None:
        """Take away what is still mounted; see `SnapshotDriver.close`."""
        self._mountpoints.close()

    def keys(self) -> Iterator[str]:
        """Yield the key of every snapshot on disk."""
        return self._layout.keys()

    # -- chains other than the one a snapshot was made over

    def _made_over(self, key: str) -> tuple[str, ...]:
        """Return the keys of the snapshots that `key` was made over."""
        return tuple((self._layout.existing(key) / _CHAIN).read_text().split())

    def _files(self, chain: Chain) -> Path:
        """Return the directory with the chain's tree, putting it together first if there is none."""
        paths = self._layout.files(chain)
        if self._made_over(chain[-1]) == tuple(chain[:-1]):
            return Path(paths[-1])
        name = MERGED + hashlib.sha256("/".join(chain).encode()).hexdigest()[:32]
        merged = Path(paths[-1]).with_name(name)
        if not merged.is_dir():
            self._merge(chain, merged)
        return merged

    def _merge(self, chain: Chain, merged: Path) -> None:
        """Make the tree of a chain by applying the changes of snapshots to the tree of the first that is in place."""
        done = len(chain) - 1
        while done and self._made_over(chain[done - 1]) != tuple(chain[: done - 1]):
            done -= 1
        link = all(self.is_committed(key) for key in chain)
        with self._layout.staged(chain[-1]) as stage:
            if done:
                _copy(self._files(chain[:done]), stage / FILES, link=link)
            else:
                _begin(stage)
            for key in chain[done:]:
                own = (*self._made_over(key), key)
                with self.tree(own) as source, TreeWriter(stage / FILES, keep_times=True) as writer:
                    copy_entries(self.changes(own), source, writer, link=link)
                    writer.finish()
            sync_files(stage)
            try:
                (stage / FILES).rename(merged)
            except OSError:
                if not merged.is_dir():  # else another thread was faster
                    raise

    def _origin(self, chain: Chain) -> dict[str, _Identity]:
        """Return what the files copied from the parent looked like, if that proves anything here."""
        if not self._telling or self._made_over(chain[-1]) != tuple(chain[:-1]):
            return {}
        try:
            data = (self._layout.existing(chain[-1]) / _ORIGIN).read_bytes()
            found = msgspec.msgpack.decode(data, type=dict[bytes, _Identity])
        except (OSError, msgspec.DecodeError) as error:
            raise Corrupt(f"the record of copied files is damaged: {error}", where=chain[-1]) from error
        return {os.fsdecode(path): identity for path, identity in found.items()}


def _bind(path: Path, *, readonly: bool) -> Mount:
    return Mount("bind", str(path), options=("bind", "ro" if readonly else "rw"))


def _begin(stage: Path) -> None:
    """Make an empty tree, whose root is what a layer that says nothing of it means."""
    with TreeWriter(stage / FILES) as writer:
        writer.add(implied(""))
        writer.finish()


def _copy(source: Path, target: Path, *, link: bool = False) -> None:
    with DirectoryTree(source) as tree, TreeWriter(target) as writer:
        copy_entries(tree.entries(), tree, writer, link=link)
        writer.finish()


def _note_origin(stage: Path) -> None:
    """Write the `origin` of a new snapshot, and wait until a write would show in a file's change time.

    The kernel's clock for that moves in ticks of some milliseconds. A write in the tick
    in which the copy was made would leave the file looking as it was noted.
    """
    with DirectoryTree(stage / FILES) as tree:
        noted = {
            os.fsencode(entry.path): identity
            for entry in tree.entries()
            if entry.kind == "reg" and (identity := tree.identity(entry.path)) is not None
        }
    path = stage / _ORIGIN
    path.write_bytes(msgspec.msgpack.encode(noted))
    newest = max((ctime_ns for _, ctime_ns in noted.values()), default=0)
    for _ in range(_MAX_TICKS):
        os.utime(path)
        if path.stat().st_ctime_ns > newest:
            return
        time.sleep(_TICK)
    path.write_bytes(msgspec.msgpack.encode({}))  # the clock was set back: nothing is proven then
