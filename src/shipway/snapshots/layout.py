"""Where a driver keeps its snapshots under a store's root, and how they appear and disappear there.

`snapshots/KEY` is a snapshot, `fs` in it a directory with its files. It is made under `ingest/` and
renamed when it is whole; a removed one goes the other way first. So what is at a key is always whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from shipway.errors import Invalid, NotFound
from shipway.snapshots import syscalls
from shipway.snapshots.contract import Chain
from shipway.trees.entry import Content, Entry
from shipway.trees.removal import remove_tree
from shipway.trees.system import typed_errors
from shipway.trees.writer import TreeWriter

FILES = "fs"
WORK = "work"
MERGED = "fs-"
_KEY = re.compile(r"[0-9a-z]{1,128}")
_KEYS = re.compile(r"[0-9a-z]{1,128}(?:/[0-9a-z]{1,128})*")
_BLOCK = 512


class Layout:
    """The directories of a driver under one store's root."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.snapshots = self.root / "snapshots"
        self.ingest = self.root / "ingest"
        for directory in (self.snapshots, self.ingest):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return where the snapshot `key` is, or would be; `Invalid` if that is no key."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        """Return what `path` does, as text: there are many snapshots, and pathlib is slow."""
        if not _KEY.fullmatch(key):
            raise Invalid(f"not a snapshot key: {key[:150]!r}", todo="use 1 to 128 of [0-9a-z]")
        return f"{self.snapshots}/{key}"

    def existing(self, key: str) -> Path:
        """Return where the snapshot `key` is; `NotFound` if there is none."""
        path = self.path(key)
        if not path.is_dir():
            raise NotFound("no such snapshot", where=key)
        return path

    def files(self, chain: Chain) -> list[str]:
        """Return the `fs` directories of a chain; `NotFound` if a snapshot is missing, `Invalid` for an empty one."""
        base = f"{self.snapshots}/"
        paths = [base + name for name in self.names(chain)]  # chains are long, and pathlib is slow
        for key, path in zip(chain, paths, strict=True):
            if not os.path.isdir(path):
                self.existing(key)  # says what is wrong
                raise NotFound("the snapshot has lost its files", where=key)
        return paths

    def names(self, chain: Chain) -> list[str]:
        """Return the names below `snapshots` of a chain's `fs` directories, there or not; `Invalid` as `files` is."""
        if not chain:
            raise Invalid("an empty chain of snapshots")
        together = "/".join(chain)
        if together.count("/") != len(chain) - 1 or not _KEYS.fullmatch(together):
            for key in chain:
                self.path(key)  # says what is wrong
        return [f"{key}/{FILES}" for key in chain]

    def is_committed(self, key: str) -> bool:
        """Whether `key` is committed, which is to have no work directory; `NotFound` if there is no such snapshot."""
        return not (self.existing(key) / WORK).is_dir()

    def check_parents(self, chain: Chain) -> None:
        """Raise unless a new snapshot `chain[-1]` can be made over the others."""
        if not chain:
            raise Invalid("an empty chain of snapshots")
        if self.path(chain[-1]).exists():
            raise Invalid("there is such a snapshot already", where=chain[-1])
        for key in chain[:-1]:
            if not self.is_committed(key):
                raise Invalid("not committed, so nothing can stand on it", where=key)

    @contextlib.contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Yield a new directory to prepare `key` in; if it was not published when the block ends it is removed."""
        stage = self.stage(key)
        try:
            with typed_errors(key):
                yield stage
        finally:
            self.discard(stage)

    def stage(self, key: str) -> Path:
        """Return a new directory to prepare the snapshot `key` in, with an empty `fs`."""
        stage = self.ingest / f"{key}-{secrets.token_hex(6)}"
        with typed_errors(key):
            (stage / FILES).mkdir(mode=0o700, parents=True)
        return stage

    def publish(self, stage: Path, key: str) -> None:
        """Make a prepared directory the snapshot `key`, in one step."""
        try:
            stage.rename(self.path(key))
        except OSError as error:
            if self.path(key).exists():
                raise Invalid("there is such a snapshot already", where=key) from error
            raise
        sync_directory(self.snapshots)

    def commit(self, key: str) -> None:
        """Make an active snapshot committed, its files on disk."""
        path = self.existing(key)
        work = path / WORK
        if not work.is_dir():
            return
        trash = self.ingest / f"{key}-{secrets.token_hex(6)}"
        with typed_errors(key):
            sync_files(path)
            work.rename(trash)
            sync_directory(path)
            self.discard(trash)

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is no error."""
        trash = f"{self.ingest}/{key}-{secrets.token_hex(6)}"
        try:
            os.rename(self._place(key), trash)
        except FileNotFoundError:
            return
        self.discard(trash)

    def replace(self, key: str, other: str) -> None:
        """Put the snapshot `other` in the place of `key`, whether or not something is there."""
        made = self.existing(other)
        self.remove(key)
        with typed_errors(key):
            made.rename(self.path(key))
            sync_directory(self.snapshots)

    def discard(self, path: Path | str) -> None:
        """Remove a directory under `ingest`, if it is still there."""
        fd = os.open(self.ingest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.path.basename(path))
        finally:
            os.close(fd)

    def keys(self) -> Iterator[str]:
        """Yield the key of every snapshot."""
        with os.scandir(self.snapshots) as items:
            yield from (item.name for item in items if _KEY.fullmatch(item.name))

    def usage(self, key: str, *, linked: bool = False) -> int:
        """Return the bytes a snapshot takes on disk (blocks, each hard-linked file once).

        With `linked`, what has names outside counts nothing; that always goes for trees put
        together of other snapshots, whose names start with `MERGED`.
        """
        path = self._place(key)
        try:
            total = os.lstat(path).st_blocks
            items = os.scandir(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("no such snapshot", where=key) from error
        with items:
            for item in items:
                with contextlib.suppress(FileNotFoundError):  # what an active one has more is gone when it is committed
                    total += item.stat(follow_symlinks=False).st_blocks
                    if item.is_dir(follow_symlinks=False):
                        total += _blocks_below(item.path, linked=linked or item.name.startswith(MERGED))
        return total * _BLOCK


def _blocks_below(path: str, *, linked: bool) -> int:
    total = 0
    names: dict[int, int] = {}
    stack = [path]
    while stack:
        try:
            items = os.scandir(stack.pop())
        except (FileNotFoundError, PermissionError):  # an active one, being written to; a directory closed even to us
            continue
        with items:
            for item in items:
                try:
                    st = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if item.is_dir(follow_symlinks=False):
                    stack.append(item.path)
                elif st.st_nlink > 1:
                    seen = names[st.st_ino] = names.get(st.st_ino, 0) + 1
                    if seen != (st.st_nlink if linked else 1):
                        continue
                total += st.st_blocks
    return total


class LayerSink:
    """A `TreeSink` that makes a committed snapshot with a `TreeWriter`."""

    def __init__(self, layout: Layout, key: str, stage: Path, writer: TreeWriter) -> None:
        """Write to the prepared directory `stage`, which is published or removed."""
        self._layout = layout
        self._key = key
        self._stage = stage
        self._writer = writer

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Take one entry; see `TreeSink.add`."""
        self._writer.add(entry, content)

    def finish(self) -> None:
        """Complete the snapshot, flush it and make it visible."""
        self._writer.finish()
        self._writer.close()
        with typed_errors(self._key):
            sync_files(self._stage)
            self._layout.publish(self._stage, self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._writer.close()
        self._layout.discard(self._stage)


def sync_files(directory: Path) -> None:
    """Write everything on the file system of `directory` to its disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Write a directory's own names to the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
