"""Writing a layer as overlayfs keeps it: only what it holds, with whiteout devices and opaque marks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from shipway.errors import UnsafeEntry
from shipway.trees import xattrs
from shipway.trees.directory import is_whiteout
from shipway.trees.dirfds import Root
from shipway.trees.entry import Entry, parent_of
from shipway.trees.stack import OverlayTree
from shipway.trees.writer import TreeWriter

_WHITEOUT = os.makedev(0, 0)


class LayerWriter(TreeWriter):
    """Writes a layer over the tree `lower()` into a directory that overlayfs then puts on top of it.

    Parents that the layer does not hold are copied from `lower`, and so is the target of a hard link
    (with the file's other names, so that all stay one file).
    Making whiteouts needs Linux 5.8 without privileges; `mark` is the attribute that makes a
    directory opaque: `trusted.overlay.opaque`, or `user.overlay.opaque` for mounts with `userxattr`.
    """

    def __init__(self, root: Root, lower: Callable[[], OverlayTree | None], *, mark: str = xattrs.OPAQUE[0]) -> None:
        self._marking = True
        super().__init__(root)
        self._find_lower: Callable[[], OverlayTree | None] | None = lower
        self._found: OverlayTree | None = None
        self._mark_name = mark
        self._hiding: set[str] = set()
        """Directories of this layer that hide what is below them in lower layers."""
        self._names: dict[int, list[str]] | None = None

    @property
    def _lower(self) -> OverlayTree | None:
        """The tree below, asked for at the first look at it."""
        if self._find_lower is not None:
            self._found = self._find_lower()
            self._find_lower = None
        return self._found

    def finish(self) -> None:
        """Give the directories their metadata; the root's is that of the tree below if the layer has none."""
        if "" not in self._directories:
            base = self._lower.get("") if self._lower is not None else None
            self._directories[""] = base or self._implied("")
        super().finish()

    def _below(self, path: str) -> Entry | None:
        """Return what lower layers show at `path`, if nothing in this layer hides it."""
        if self._lower is None:
            return None
        if self._hiding:
            above = path
            while above:
                above = parent_of(above)
                if above in self._hiding:
                    return None
        return self._lower.get(path)

    def _mark(self, path: str, *, directory: bool = False) -> None:
        if self._marking:
            super()._mark(path, directory=directory)

    @contextmanager
    def _taken_over(self) -> Iterator[None]:
        """Write what belongs to lower layers: whiteouts of this one still apply to it."""
        self._marking = False
        try:
            yield
        finally:
            self._marking = True

    def close(self) -> None:
        """Close all descriptors, those of `lower` too."""
        super().close()
        self._find_lower = None
        if self._found is not None:
            self._found.close()

    # -- hooks of TreeWriter

    def _implied(self, path: str) -> Entry:
        below = None if path in self._hiding else self._below(path)
        if below is None:
            return super()._implied(path)
        if below.kind != "dir":
            raise UnsafeEntry("an entry below it, and it is not a directory", where=path)
        return below

    def _make_way(self, path: str, above: int, name: str, error: OSError) -> None:
        if not is_whiteout(os.stat(name, dir_fd=above, follow_symlinks=False)):
            super()._make_way(path, above, name, error)
        os.unlink(name, dir_fd=above)
        self._hiding.add(path)

    def _make_parent(self, path: str, above: int, name: str) -> int:
        fd = super()._make_parent(path, above, name)
        if path in self._hiding:
            os.setxattr(fd, self._mark_name, b"y")
        return fd

    def _remade(self, path: str) -> None:
        # Hidden or not: overlayfs would merge it with a directory that is there.
        below = self._lower.get(path) if self._lower is not None else None
        if below is not None and below.kind == "dir":
            self._hide(path)

    def _hide(self, path: str) -> None:
        os.setxattr(self._fds.get(path), self._mark_name, b"y")
        self._hiding.add(path)

    def _forget(self, path: str) -> None:
        super()._forget(path)
        below = path + "/"
        self._hiding = {one for one in self._hiding if one != path and not one.startswith(below)}

    def _whiteout(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        if path in self._made:
            self._opaque(path)
            return
        if self._below(path) is None or self._is_blocked(directory):
            return
        with self._taken_over():
            dir_fd = self._parent(directory, path)
        try:
            os.mknod(name, stat.S_IFCHR, _WHITEOUT, dir_fd=dir_fd)
        except FileExistsError:
            self._clear(dir_fd, name, path)
            os.mknod(name, stat.S_IFCHR, _WHITEOUT, dir_fd=self._fds.get(directory))

    def _is_blocked(self, directory: str) -> bool:
        """Whether this layer holds something else than a directory on the way: then it hides what is below."""
        try:
            self._fds.get(directory)
        except NotADirectoryError:
            return True
        except FileNotFoundError:
            pass
        return False

    def _opaque(self, path: str) -> None:
        below = self._below(path)
        if below is None or below.kind != "dir" or self._is_blocked(path):
            super()._opaque(path)
            return
        self._parent(path, path)
        super()._opaque(path)
        if path:
            self._hide(path)
        else:
            self._hide_root()

    def _hide_root(self) -> None:
        """Hide all of the lower layers by a whiteout for each name: overlayfs ignores the mark on a root."""
        assert self._lower is not None
        for name in self._lower.names(""):
            if not self._holds(name):
                os.mknod(name, stat.S_IFCHR, _WHITEOUT, dir_fd=self._fds.get(""))
        self._hiding.add("")

    def _link_target(self, entry: Entry) -> tuple[int, str]:
        directory, _, target = entry.link.rpartition("/")
        try:
            held = os.stat(target, dir_fd=self._fds.get(directory), follow_symlinks=False)
        except FileNotFoundError:
            self._copy_up(entry)
        except (OSError, ValueError):
            pass  # refused below, with a reason
        else:
            if is_whiteout(held):
                raise UnsafeEntry(f"a hard link to {entry.link[:200]!r}, which is removed", where=entry.path)
        return super()._link_target(entry)

    # -- copying up

    def _copy_up(self, entry: Entry) -> None:
        """Take the target of a hard link over from the lower layers, under all the names that it has there."""
        target = self._below(entry.link)
        if self._lower is None or target is None or target.kind == "dir" or self._is_blocked(parent_of(entry.link)):
            return
        with self._taken_over():
            if target.kind == "reg":
                for found, content in self._lower.read([target]):
                    self.add(found, content)
            else:
                self.add(target)
            for name in self._other_names(target):
                if self._below(name) is not None and not self._holds(name):
                    self.add(msgspec.structs.replace(target, path=name, kind="hardlink", link=target.path))

    def _holds(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        try:
            os.stat(name, dir_fd=self._fds.get(directory), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True
        return True

    def _other_names(self, target: Entry) -> list[str]:
        if not target.inode or self._lower is None:
            return []
        if self._names is None:
            self._names = {}
            for entry in self._lower.entries():
                if entry.inode:
                    self._names.setdefault(entry.inode, []).append(entry.path)
        return [name for name in self._names.get(target.inode, ()) if name != target.path]
