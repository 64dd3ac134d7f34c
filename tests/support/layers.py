"""A plain directory as a tree, and as a sink: the smallest that the layer tests can do with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from shipway.trees.entry import Content, Entry, Kind, OpenFile, join, name_key, path_key

KINDS: dict[int, Kind] = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "reg",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


class PlainTree:
    """A directory read by joined paths; trusted, for tests only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[Entry]:
        """The tree as a layer's entries, the root first."""
        paths = [""]
        for base, dirs, files in os.walk(self.root):
            prefix = os.path.relpath(base, self.root)
            paths += [os.path.normpath(os.path.join(prefix, name)) for name in dirs + files]
        first: dict[tuple[int, int], str] = {}
        return [self._entry(path, first) for path in sorted(paths, key=path_key)]

    def _entry(self, path: str, first: dict[tuple[int, int], str]) -> Entry:
        full = os.path.join(self.root, path)
        st = os.lstat(full)
        kind = KINDS[stat.S_IFMT(st.st_mode)]
        link = os.readlink(full) if kind == "symlink" else ""
        if kind != "dir" and st.st_nlink > 1:
            target = first.setdefault((st.st_dev, st.st_ino), path)
            if target != path:
                kind, link = "hardlink", target
        return Entry(
            path=path,
            kind=kind,
            mode=st.st_mode & 0o7777,
            uid=st.st_uid,
            gid=st.st_gid,
            size=st.st_size if kind == "reg" else 0,
            mtime_ns=st.st_mtime_ns,
            link=link,
            dev=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in ("char", "block") else (0, 0),
            xattrs={
                name: os.getxattr(full, name, follow_symlinks=False)
                for name in os.listxattr(full, follow_symlinks=False)
            }
            if kind != "hardlink"
            else {},
        )

    def get(self, path: str) -> Entry | None:
        return self._entry(path, {}) if os.path.lexists(os.path.join(self.root, path)) else None

    def names(self, path: str) -> Sequence[str]:
        return sorted(os.listdir(os.path.join(self.root, path)), key=name_key)

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Content]]:
        for entry in entries:
            yield entry, (self.root / entry.path).read_bytes()

    def open(self, path: str) -> int:
        return os.open(os.path.join(self.root, path), os.O_RDONLY | os.O_NOFOLLOW)


class Collected:
    """A sink that remembers entries, contents and holes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.contents: dict[str, bytes] = {}
        self.holes: dict[str, int] = {}
        self.finished = False

    def add(self, entry: Entry, content: Content = b"") -> None:
        self.entries.append(entry)
        if entry.kind != "reg":
            return
        if isinstance(content, bytes | bytearray | memoryview):
            self.contents[entry.path] = bytes(content)
            return
        assert not isinstance(content, OpenFile)
        parts = []
        for piece in content:
            if isinstance(piece, int):
                self.holes[entry.path] = self.holes.get(entry.path, 0) + piece
                parts.append(bytes(piece))
            else:
                parts.append(bytes(piece))
        self.contents[entry.path] = b"".join(parts)

    def finish(self) -> None:
        self.finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass


def join_path(directory: str, name: str) -> str:
    return join(directory, name)
