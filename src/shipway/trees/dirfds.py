"""Descriptors of directories inside a tree, opened component by component and never through a symlink."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

Root = str | Path | int
"""Where a tree is: a path of this machine, or an open descriptor of its root directory."""

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_root(root: Root) -> int:
    """Return a new descriptor of a tree's root directory; a path may lead through symlinks, it is the host's."""
    if isinstance(root, int):
        return os.open(".", FLAGS, dir_fd=root)
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class DirectoryFds:
    """The most recently used directories of one or several trees, open.

    A descriptor stays valid until two further ones have been asked for, at least. One
    thread at a time. Raises the `OSError` of open(2) for what is not a directory:
    `ENOENT`, or `ENOTDIR` for a symlink too.
    """

    def __init__(self, roots: Sequence[Root], capacity: int = 96) -> None:
        """Serve the trees at `roots`; each root is opened on first use."""
        self._roots = roots
        self._capacity = max(capacity, 4)
        self._open: dict[tuple[int, str], int] = {}
        self._last: tuple[int, str, int] | None = None

    def get(self, path: str, tree: int = 0) -> int:
        """Return the descriptor of the directory `path` of the tree with that index."""
        last = self._last
        if last is not None and last[1] == path and last[0] == tree:
            return last[2]
        key = (tree, path)
        fd = self._open.pop(key, None)
        if fd is None:
            # Making room first: what this call opens, and what the last one returned, stay open.
            while len(self._open) > self._capacity:
                os.close(self._open.pop(next(iter(self._open))))
            fd = self._open_one(path, tree)
        self._open[key] = fd
        self._last = (tree, path, fd)
        return fd

    def _open_one(self, path: str, tree: int) -> int:
        if not path:
            return open_root(self._roots[tree])
        ancestor, missing = path, []
        while ancestor and (tree, ancestor) not in self._open:
            ancestor, _, name = ancestor.rpartition("/")
            missing.append(name)
        fd = self.get(ancestor, tree)
        own = False
        for name in reversed(missing):
            try:
                if name in ("..", ".") or "\0" in name:
                    raise NotADirectoryError(errno.ENOTDIR, "not a name in a tree")
                below = os.open(name, FLAGS, dir_fd=fd)
            finally:
                if own:
                    os.close(fd)
            fd, own = below, True
        return fd

    def forget(self, path: str, tree: int = 0) -> None:
        """Close what is open at and below `path`, since it is about to be another directory or none."""
        self._last = None
        below = path + "/"
        for key in [key for key in self._open if key[0] == tree and (key[1] == path or key[1].startswith(below))]:
            os.close(self._open.pop(key))

    def close(self) -> None:
        """Close all of them."""
        self._last = None
        while self._open:
            os.close(self._open.popitem()[1])
