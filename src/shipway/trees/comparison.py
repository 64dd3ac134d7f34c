"""Two trees, gone through side by side for what one changes in the other.

Of what was passed only the directories above stay in memory, and the names of files that have several.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from shipway.errors import NotFound, Truncated
from shipway.trees.entry import Entry, LocalTree, parent_of, path_key
from shipway.trees.packed import PackedEntries

Pair = tuple[str, Entry | None, Entry | None]
"""A path, what the lower tree has there, and what the upper one has; one of them at least is something."""
_PIECE = 1 << 20


def joined(lower: Iterator[Entry], upper: Iterator[Entry]) -> Iterator[Pair]:
    """Yield pairs of the entries of two trees, both of which come in walk order."""
    before, now = next(lower, None), next(upper, None)
    while before is not None or now is not None:
        if before is None or (now is not None and now.path != before.path and _key(now) < _key(before)):
            assert now is not None
            yield now.path, None, now
            now = next(upper, None)
        elif now is None or now.path != before.path:
            yield before.path, before, None
            before = next(lower, None)
        else:
            yield now.path, before, now
            before, now = next(lower, None), next(upper, None)


class _Directory:
    """A directory of the upper tree that we are in."""

    __slots__ = ("entry", "is_old", "is_opaque", "written")

    def __init__(self, entry: Entry, *, is_old: bool, written: bool) -> None:
        self.entry = entry
        self.is_old = is_old
        """Whether the lower tree has a directory there."""
        self.is_opaque = None if is_old and entry.path else False
        """Whether it keeps nothing of that; None while nobody asked."""
        self.written = written


class _Name(NamedTuple):
    """A name of a file that has several now, or had before."""

    path: str
    inode: int
    changed: bool = False
    is_old: bool = False
    """Whether the lower tree has something there."""


class Comparison:
    """Finds what `upper` changes in `lower`: see `shipway.trees.diff`. Used once."""

    def __init__(
        self, lower: LocalTree, upper: LocalTree, unchanged: Callable[[str], bool] = lambda _path: False
    ) -> None:
        """Compare these; `unchanged` says of a file that its content is proven to be the same."""
        self._lower = lower
        self._upper = upper
        self._unchanged = unchanged
        self._above: list[_Directory] = []
        self._old: list[_Name] = []
        self._new: list[_Name] = []

    @property
    def linked_before(self) -> bool:
        """Whether a file that has several names in the lower tree was among the pairs so far."""
        return bool(self._old)

    def result(self, pairs: Iterable[Pair]) -> PackedEntries[Entry]:
        """Return the changes among pairs in walk order; those of the directories above a change are to be there."""
        found = PackedEntries(self._differences(pairs))
        return PackedEntries(_merged(found, self._regrouped())) if self._new else found

    def _differences(self, pairs: Iterable[Pair]) -> Iterator[Entry]:
        """Yield the changes, but for those of files with several names, which are remembered."""
        for path, before, now in pairs:
            directory = self._enter(parent_of(path)) if path else None
            if before is not None and before.inode:
                self._old.append(_Name(path, before.inode))
            if directory is not None and (before is None or now is None):
                yield from self._hide(directory)
            if now is None:
                if directory is not None and not directory.is_opaque:
                    yield from self._write()
                    yield Entry(path=path, kind="whiteout")
                continue
            changed = before is None or not self._is_equal(before, now)
            if now.inode or (before is not None and before.inode):
                self._new.append(_Name(path, now.inode, changed, before is not None))
            elif changed:
                yield from self._write()
                yield now
            if now.kind == "dir":
                is_old = before is not None and before.kind == "dir"
                self._above.append(_Directory(now, is_old=is_old, written=changed))

    def _enter(self, path: str) -> _Directory | None:
        """Leave directories that are not above `path`; return the one there, None if the upper tree has none there."""
        above = self._above
        while (last := above[-1].entry.path) and last != path and not path.startswith(last + "/"):
            above.pop()
        return above[-1] if above[-1].entry.path == path else None

    def _hide(self, directory: _Directory) -> Iterator[Entry]:
        """Yield the mark of a directory that keeps nothing, if it is one; the first that is new or gone in it asks."""
        if directory.is_opaque is None:
            directory.is_opaque = self._keeps_none(directory.entry.path)
            if directory.is_opaque:
                yield from self._write()
                yield Entry(path=directory.entry.path, kind="opaque")

    def _write(self) -> Iterator[Entry]:
        """Yield the directories that we are in, but for those that were yielded."""
        for directory in self._above:
            if not directory.written:
                directory.written = True
                yield directory.entry

    def _keeps_none(self, directory: str) -> bool:
        lost = self._lower.names(directory)
        return len(lost) > 1 and set(lost).isdisjoint(self._upper.names(directory))

    def _is_equal(self, before: Entry, now: Entry) -> bool:
        if not _same_metadata(before, now):
            return False
        if now.kind != "reg" or not now.size or self._unchanged(now.path):
            return True
        return _same_content(self._lower, self._upper, now.path)

    def _regrouped(self) -> Iterator[Entry]:
        """Yield the files that have other names than before, or one of whose names changed, and what is above them."""
        before, now = _groups(self._old), _groups(self._new)
        changed: set[str] = set()
        for name in self._new:
            names = now.get(name.path, (name.path,))
            if name.changed or (name.is_old and before.get(name.path, (name.path,)) != names):
                changed.update(names)
        written: set[str] = set()
        for name in self._new:
            if name.path not in changed:
                continue
            path = parent_of(name.path)
            lacking = []
            while path not in written:
                written.add(path)
                lacking.append(path)
                path = parent_of(path)
            for path in reversed(lacking):
                yield self._now(path)
            yield _as_layer_entry(self._now(name.path), now.get(name.path, (name.path,))[0])

    def _now(self, path: str) -> Entry:
        entry = self._upper.get(path)
        if entry is None:
            raise NotFound("went away while the tree was read", where=path)
        return entry


def _key(entry: Entry) -> bytes:
    return path_key(entry.path)


def _place(entry: Entry) -> tuple[bytes, bool]:
    return path_key(entry.path), entry.kind == "opaque"


def _merged(*ordered: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries of several layers as one; what two of them have is the same, and comes once."""
    last = None
    for entry in heapq.merge(*ordered, key=_place):
        if last is None or _place(entry) != _place(last):
            yield entry
        last = entry


def _as_layer_entry(entry: Entry, first: str) -> Entry:
    if first != entry.path:
        return replace(entry, kind="hardlink", link=first, size=0, inode=0)
    return replace(entry, inode=0)


def _groups(found: Iterable[_Name]) -> dict[str, tuple[str, ...]]:
    """Return all names, in order, of each file with several of them, by each of its names."""
    by_inode: dict[int, list[str]] = {}
    for name in found:
        if name.inode:
            by_inode.setdefault(name.inode, []).append(name.path)
    return {path: tuple(names) for names in by_inode.values() if len(names) > 1 for path in names}


def _same_metadata(one: Entry, other: Entry) -> bool:
    return (
        one.kind == other.kind
        and one.mtime_ns == other.mtime_ns
        and one.size == other.size
        and one.mode == other.mode
        and one.uid == other.uid
        and one.gid == other.gid
        and one.link == other.link
        and one.dev == other.dev
        and one.xattrs == other.xattrs
    )


def _same_content(lower: LocalTree, upper: LocalTree, path: str) -> bool:
    one = lower.open(path)
    try:
        other = upper.open(path)
        try:
            return same_bytes(one, other, path)
        finally:
            os.close(other)
    finally:
        os.close(one)


def same_bytes(one: int, other: int, path: str) -> bool:
    """Whether two open regular files of equal size hold the same bytes; a file is equal to itself unread."""
    first, second = os.fstat(one), os.fstat(other)
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    if first.st_size != second.st_size:
        return False
    position = 0
    while position < first.st_size:
        piece = os.pread(one, _PIECE, position)
        if not piece:
            raise Truncated("the file became shorter while it was compared", where=path)
        if piece != os.pread(other, len(piece), position):
            return False
        position += len(piece)
    return True
