"""A directory of this machine as a tree."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

from shipway.errors import Invalid, NotFound
from shipway.trees import xattrs
from shipway.trees.dirfds import DirectoryFds, Root, open_root
from shipway.trees.entry import Content, Entry, Kind, OpenFile, join

KINDS: dict[int, Kind] = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "reg",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
"""Entry kinds by file type; a socket, which only means something to a running process, has none."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Inodes:
    """Numbers of files with several names, unique in one tree.

    They are the system's, so that they need not be remembered, but for file systems that are mounted in the tree.
    """

    def __init__(self) -> None:
        """Number the files of a tree on the file system that is asked about first."""
        self._device = -1
        self._others: dict[tuple[int, int], int] = {}

    def number(self, st: os.stat_result) -> int:
        """Return a file's number; not 0."""
        if self._device < 0:
            self._device = st.st_dev
        if st.st_dev == self._device and st.st_ino:
            return st.st_ino
        return self._others.setdefault((st.st_dev, st.st_ino), -1 - len(self._others))


def is_whiteout(st: os.stat_result) -> bool:
    """Whether it is overlayfs' mark for a removed name: a character device 0:0, which is never part of a tree."""
    return st.st_rdev == 0 and stat.S_ISCHR(st.st_mode)


def make_entry(path: str, name: str, dir_fd: int, st: os.stat_result, inodes: Inodes) -> Entry | None:
    """Return the entry for what `name` in an open directory is, or None for a socket or a whiteout.

    `name` is `.` for the directory itself.
    """
    mode = st.st_mode
    kind = KINDS.get(mode & 0o170000)
    if kind is None or (kind == "char" and st.st_rdev == 0):
        return None
    inode = 0
    if st.st_nlink > 1 and kind != "dir":
        inode = inodes.number(st)
    device = kind in ("char", "block")
    return Entry(
        path=path,
        kind=kind,
        mode=mode & 0o7777 if kind != "symlink" else 0o777,
        uid=st.st_uid,
        gid=st.st_gid,
        size=st.st_size if kind == "reg" else 0,
        mtime_ns=st.st_mtime_ns,
        link=os.readlink(name, dir_fd=dir_fd) if kind == "symlink" else "",
        dev=(os.major(st.st_rdev), os.minor(st.st_rdev)) if device else (0, 0),
        xattrs=xattrs.read(xattrs.child(dir_fd, name)),
        inode=inode,
    )


def open_file(name: str, dir_fd: int, path: str) -> int:
    """Return a read-only descriptor of a regular file; `NotFound` or `Invalid` (naming `path`) if it is not one.

    Its access time is left alone where the system allows that.
    """
    try:
        try:
            fd = os.open(name, _READ | os.O_NOATIME, dir_fd=dir_fd)
        except PermissionError:  # O_NOATIME is for the owner and root
            fd = os.open(name, _READ, dir_fd=dir_fd)
    except (OSError, ValueError) as error:
        raise _refused(error, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Invalid("not a regular file", where=path)
    return fd


def _refused(error: OSError | ValueError, path: str) -> Exception:
    if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):  # or a NUL
        return NotFound("no such file in the tree", where=path)
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
        return Invalid("not a regular file", where=path)
    return error


class DirectoryTree:
    """The tree under a directory; the caller's own files, which nobody should change meanwhile.

    A context manager that closes its descriptors. Sockets are left out. It is used
    by one thread at a time.
    """

    def __init__(self, root: Root) -> None:
        """Open the tree at a path or at an open directory (which stays the caller's)."""
        self.root_fd = open_root(root)
        self._fds = DirectoryFds([self.root_fd])
        self._inodes = Inodes()

    def close(self) -> None:
        """Close all descriptors; closing twice does nothing."""
        self._fds.close()
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        try:
            dir_fd, name = self._locate(path)
            return make_entry(path, name, dir_fd, os.stat(name, dir_fd=dir_fd, follow_symlinks=False), self._inodes)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        try:
            fd = self._fds.get(path)
        except OSError as error:
            if error.errno in ABSENT:
                return []
            raise
        with os.scandir(fd) as items:
            return sorted((item.name for item in items if _is_member(item)), key=os.fsencode)

    def open(self, path: str) -> int:
        """Return a read-only descriptor of the regular file at `path`; the caller closes it."""
        try:
            dir_fd, name = self._locate(path)
        except OSError as error:
            raise _refused(error, path) from error
        return open_file(name, dir_fd, path)

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

    def entries(self) -> Iterator[Entry]:
        """Yield all there is in walk order, the root first."""
        root = self.get("")
        if root is None:  # pragma: no cover  an open directory is always one
            return
        yield root
        stack = [self._scan("")]
        while stack:
            for entry in stack[-1]:
                yield entry
                if entry.kind == "dir":
                    stack.append(self._scan(entry.path))
                    break
            else:
                stack.pop()

    def identity(self, path: str) -> tuple[int, int] | None:
        """Return the inode number and change time (ctime, in ns) of what is at `path`, or None."""
        try:
            dir_fd, name = self._locate(path)
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise
        return st.st_ino, st.st_ctime_ns

    def _scan(self, path: str) -> Iterator[Entry]:
        for name in sorted(os.listdir(self._fds.get(path)), key=os.fsencode):
            fd = self._fds.get(path)
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            entry = make_entry(join(path, name), name, fd, st, self._inodes)
            if entry is not None:
                yield entry

    def _locate(self, path: str) -> tuple[int, str]:
        directory, _, name = path.rpartition("/")
        if name in ("..", ".") or "\0" in name:
            raise FileNotFoundError(errno.ENOENT, "no such name")
        return self._fds.get(directory), name or "."


def _is_member(item: os.DirEntry[str]) -> bool:
    """Whether a directory's item is part of the tree: neither a socket nor a whiteout."""
    if item.is_file(follow_symlinks=False) or item.is_dir(follow_symlinks=False) or item.is_symlink():
        return True
    st = item.stat(follow_symlinks=False)
    return not stat.S_ISSOCK(st.st_mode) and not is_whiteout(st)
