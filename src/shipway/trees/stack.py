"""The merged view of overlayfs layer directories, read without mounting them.

Layers are named base first. In a layer a character device 0:0 removes its name from
those below, and a directory with the opaque mark hides what they have in it
(Documentation/filesystems/overlayfs.rst, whiteouts and opaque directories).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, Self

from shipway.errors import Invalid, NotFound
from shipway.trees import xattrs
from shipway.trees.directory import ABSENT, KINDS, Inodes, is_whiteout, make_entry, open_file
from shipway.trees.dirfds import DirectoryFds, Root
from shipway.trees.entry import Content, Entry, OpenFile, join

_Layers = tuple[int, ...]
"""The layers that hold a directory, by index, the top one first."""


class OverlayTree:
    """The tree that overlayfs shows for layer directories, base first; also of a single one.

    A context manager that closes its descriptors. Used by one thread at a time.
    """

    def __init__(self, layers: Sequence[Root]) -> None:
        """Look at these directories; open ones stay the caller's."""
        self._fds = DirectoryFds(layers)
        self._holders: dict[str, _Layers] = {"": tuple(reversed(range(len(layers))))}
        self._top = len(layers) - 1
        self._inodes = Inodes()

    def close(self) -> None:
        """Close all descriptors."""
        self._fds.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        found = self._find(path)
        if found is None:
            return None
        fd, name, st, _ = found
        return make_entry(path, name, fd, st, self._inodes)

    def is_on_top(self, path: str) -> bool:
        """Whether what is at `path` is what the top layer has there."""
        found = self._find(path)
        return found is not None and found[3] == self._top

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        layers = self._layers(path)
        if layers is None:
            return []
        found: set[str] = set()
        hidden: set[str] = set()
        for layer in layers:
            with os.scandir(self._fds.get(path, layer)) as items:
                for item in items:
                    if item.name not in found and item.name not in hidden:
                        (found if _kind(item) in KINDS else hidden).add(item.name)
        return sorted(found, key=os.fsencode)

    def open(self, path: str) -> int:
        """Return a read-only descriptor of the regular file at `path`; the caller closes it."""
        directory, _, name = path.rpartition("/")
        layers = self._layers(directory) if name not in ("..", ".") else None
        for layer in layers or ():
            dir_fd = self._fds.get(directory, layer)
            try:
                return open_file(name or ".", dir_fd, path)
            except NotFound:
                continue
            except Invalid:
                if is_whiteout(os.stat(name or ".", dir_fd=dir_fd, follow_symlinks=False)):
                    break
                raise
        raise NotFound("no such file in the tree", where=path)

    def open_file(self, entry: Entry) -> BinaryIO:
        """Return a regular file of the tree, opened to be read."""
        return os.fdopen(self.open(entry.path), "rb")

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Content]]:
        """Yield each entry with its file open, in the order given."""
        for entry in entries:
            fd = self.open(entry.path)
            try:
                yield entry, OpenFile(fd)
            finally:
                os.close(fd)

    def entries(self, path: str = "") -> Iterator[Entry]:
        """Yield all there is at and below `path` in walk order, itself first."""
        first = self.get(path)
        if first is None:
            return
        yield first
        if first.kind != "dir":
            return
        stack = [self._scan(path)]
        while stack:
            for entry in stack[-1]:
                yield entry
                if entry.kind == "dir":
                    stack.append(self._scan(entry.path))
                    break
            else:
                stack.pop()

    def top_layer(self) -> Iterator[Entry]:
        """Yield what the top layer's directory itself holds, in walk order: entries, `whiteout`s and `opaque`s."""
        stack = [iter([""])]
        while stack:
            for path in stack[-1]:
                directory, _, name = path.rpartition("/")
                fd = self._fds.get(directory, self._top)
                st = os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
                if is_whiteout(st):
                    yield Entry(path=path, kind="whiteout")
                    continue
                entry = make_entry(path, name or ".", fd, st, self._inodes)
                if entry is None:
                    continue
                yield entry
                if entry.kind == "dir":
                    if xattrs.is_opaque(xattrs.child(fd, name or ".")):
                        yield Entry(path=path, kind="opaque")
                    with os.scandir(self._fds.get(path, self._top)) as items:
                        names = sorted((item.name for item in items), key=os.fsencode)
                    stack.append(iter([join(path, below) for below in names]))
                    break
            else:
                stack.pop()

    # -- merging

    def _find(self, path: str) -> tuple[int, str, os.stat_result, int] | None:
        """Return where the object that shows at `path` is: directory descriptor, name, status and layer."""
        directory, _, name = path.rpartition("/")
        if name in ("..", "."):
            return None
        for layer in self._layers(directory) or ():
            fd = self._fds.get(directory, layer)
            try:
                st = os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno in ABSENT:
                    continue
                raise
            except ValueError:  # a NUL in the name
                return None
            return None if is_whiteout(st) else (fd, name or ".", st, layer)
        return None

    def _layers(self, path: str) -> _Layers | None:
        """Return the layers whose directories at `path` are merged there, or None if it is no directory."""
        known = self._holders.get(path)
        missing = []
        while known is None:
            directory, _, name = path.rpartition("/")
            if name in ("", ".", ".."):
                return None
            missing.append(path)
            path = directory
            known = self._holders.get(path)
        for below in reversed(missing):
            known = self._merge(below, known)
            if not known:
                return None
            self._holders[below] = known
        return known

    def _merge(self, path: str, above: _Layers) -> _Layers:
        layers: list[int] = []
        for layer in above:
            try:
                fd = self._fds.get(path, layer)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                if error.errno in ABSENT:  # something else than a directory ends the merge
                    break
                raise
            except ValueError:  # a NUL in the name
                break
            layers.append(layer)
            if layer != above[-1] and xattrs.is_opaque(fd):
                break
        return tuple(layers)

    def _scan(self, path: str) -> Iterator[Entry]:
        layers = self._layers(path) or ()
        found: dict[str, int] = {}
        holders: dict[str, list[int]] = {}
        closed: set[str] = set()
        for layer in layers:
            fd = self._fds.get(path, layer)
            with os.scandir(fd) as items:
                for item in items:
                    name = item.name
                    if name in closed:
                        continue
                    is_directory = item.is_dir(follow_symlinks=False)
                    found.setdefault(name, layer)
                    if not is_directory:
                        closed.add(name)
                        continue
                    holders.setdefault(name, []).append(layer)
                    if layer != layers[-1] and xattrs.is_opaque(xattrs.child(fd, name)):
                        closed.add(name)
        for name, held in holders.items():
            self._holders[join(path, name)] = tuple(held)
        for name in sorted(found, key=os.fsencode):
            fd = self._fds.get(path, found[name])
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            entry = make_entry(join(path, name), name, fd, st, self._inodes)
            if entry is not None:
                yield entry


def _kind(item: os.DirEntry[str]) -> int:
    """Return the file type of a directory's item; 0 for a whiteout, which is none."""
    if item.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if item.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    st = item.stat(follow_symlinks=False)
    return 0 if is_whiteout(st) else stat.S_IFMT(st.st_mode)
