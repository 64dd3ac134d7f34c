"""What one tree changes in another, as a layer's entries: the canonical layer.

It is a function of the two trees alone. It holds

- every entry that is new, or not equal to what the lower tree has there (kind, mode, owner, times,
  attributes, link, device, content), or whose file has other names than it had;
- a whiteout for every name that is gone, or one `opaque` for a directory that keeps none of its old names and
  lost more than one (never for the root, where overlayfs ignores the mark); nothing for what another kind of
  object replaced, since that removes the old one;
- the directories above all of these, so that whoever applies the layer knows their metadata.

Entries are in `path_key` order, an `opaque` right after its directory. Of a file with several names the first is
its entry and the others are `hardlink`s to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec

from shipway.errors import Truncated
from shipway.trees.entry import Entry, LocalTree, join, parent_of, path_key
from shipway.trees.packed import PackedEntries
from shipway.trees.select import Listing
from shipway.trees.stack import OverlayTree

_Index = dict[str, Entry]
_PIECE = 1 << 20


def walk(tree: Listing, path: str = "", depth: int | None = None) -> Iterator[Entry]:
    """Yield all there is at and below `path`, or just `depth` levels below it, in walk order, itself first."""
    first = tree.get(path)
    if first is None:
        return
    yield first
    if depth == 0:
        return
    stack = [iter(tree.names(path))]
    base = [path]
    while stack:
        for name in stack[-1]:
            entry = tree.get(join(base[-1], name))
            if entry is None:
                continue
            yield entry
            if entry.kind == "dir" and len(stack) != depth:
                stack.append(iter(tree.names(entry.path)))
                base.append(entry.path)
                break
        else:
            stack.pop()
            base.pop()


def changes(
    lower: LocalTree | None, upper: LocalTree, *, unchanged: Callable[[str], bool] = lambda _path: False
) -> PackedEntries[Entry]:
    """Return what makes `upper` of `lower`; without a lower tree everything, the root too.

    `unchanged` says of a regular file that its content is proven to be the lower tree's at the same
    path; the others, where all else is equal, are compared byte by byte.
    """
    if lower is None:
        return PackedEntries(everything(upper))
    return _Comparison(lower, upper, _index(lower), _index(upper), unchanged).result()


def everything(tree: LocalTree) -> Iterator[Entry]:
    """Yield what `changes(None, tree)` returns, as it is found."""
    first: dict[int, str] = {}
    for entry in _entries(tree):
        inode = entry.inode
        if not inode:
            yield entry
        elif first.setdefault(inode, entry.path) == entry.path:
            yield msgspec.structs.replace(entry, inode=0)
        else:
            yield msgspec.structs.replace(entry, kind="hardlink", link=first[inode], size=0, inode=0)


def layer_changes(lower: OverlayTree | None, upper: OverlayTree) -> PackedEntries[Entry]:
    """Return the same as `changes`, where `upper` is `lower` and one more layer directory.

    Only what that directory holds is looked at, but for lower files with several names.
    """
    if lower is None:
        return changes(None, upper)
    old: _Index = {}
    new: _Index = {}
    held: set[str] = set()
    replaced: list[str] = []  # directories that hide all that is below
    for entry in upper.top_layer():
        path = entry.path
        before = lower.get(path)
        if entry.kind == "opaque":
            old.update((below.path, below) for below in lower.entries(path))
            continue
        if entry.kind != "whiteout":
            held.add(path)
            now = upper.get(path)
            if now is not None:
                new[path] = now
        if before is None:
            continue
        old[path] = before
        if before.kind == "dir" and entry.kind != "dir":
            replaced.append(path)
    for path in replaced:
        old.update((below.path, below) for below in lower.entries(path))
    if any(entry.inode for entry in old.values()):
        # Other names of such a file may be anywhere in the lower tree, untouched.
        return changes(lower, upper, unchanged=lambda path: path not in held)
    return _Comparison(lower, upper, old, new, lambda _path: False).result()


def _entries(tree: LocalTree) -> Iterable[Entry]:
    listing: Callable[[], Iterable[Entry]] | None = getattr(tree, "entries", None)
    return listing() if listing is not None else walk(tree)


def _index(tree: LocalTree) -> _Index:
    return {entry.path: entry for entry in _entries(tree)}


class _Comparison:
    """Two trees, or matching parts of them that hold all the differences."""

    def __init__(
        self, lower: LocalTree | None, upper: LocalTree, old: _Index, new: _Index, unchanged: Callable[[str], bool]
    ) -> None:
        self._lower = lower
        self._upper = upper
        self._old = old
        self._new = new
        self._unchanged = unchanged

    def result(self) -> PackedEntries[Entry]:
        groups = _groups(self._new)
        changed = {path for path, entry in self._new.items() if not self._is_equal(path, entry)}
        self._add_regrouped(changed, groups)
        marks = self._removals()
        kept = changed | {mark.path for mark in marks if mark.kind == "opaque"}
        for path in [*kept, *(mark.path for mark in marks)]:
            above = path
            while above:
                above = parent_of(above)
                if above in kept:
                    break
                kept.add(above)
        entries = [self._as_layer_entry(self._new[path], groups) for path in kept]
        return PackedEntries(sorted(entries + marks, key=lambda entry: (path_key(entry.path), entry.kind == "opaque")))

    def _is_equal(self, path: str, entry: Entry) -> bool:
        before = self._old.get(path)
        if before is None or not _same_metadata(before, entry):
            return False
        if entry.kind != "reg" or not entry.size or self._unchanged(path):
            return True
        if self._lower is None:  # pragma: no cover  then there is no `before`
            return False
        return _same_content(self._lower, self._upper, path)

    def _add_regrouped(self, changed: set[str], groups: dict[str, tuple[str, ...]]) -> None:
        """Add all names of the files that have other names than before, or one of whose names is changed."""
        before = _groups(self._old)
        for path in self._new:
            names = groups.get(path, (path,))
            regrouped = path in self._old and before.get(path, (path,)) != names
            if regrouped or (len(names) > 1 and path in changed):
                changed.update(names)

    def _removals(self) -> list[Entry]:
        lost: dict[str, list[str]] = {}
        for path in self._old:
            if path not in self._new:
                directory = parent_of(path)
                above = self._new.get(directory)
                if above is not None and above.kind == "dir":
                    lost.setdefault(directory, []).append(path)
        marks = []
        for directory, paths in lost.items():
            if directory and len(paths) > 1 and self._keeps_none(directory):
                marks.append(Entry(path=directory, kind="opaque"))
            else:
                marks += [Entry(path=path, kind="whiteout") for path in paths]
        return marks

    def _keeps_none(self, directory: str) -> bool:
        assert self._lower is not None
        return not set(self._lower.names(directory)) & set(self._upper.names(directory))

    @staticmethod
    def _as_layer_entry(entry: Entry, groups: dict[str, tuple[str, ...]]) -> Entry:
        first = groups.get(entry.path, (entry.path,))[0]
        if first != entry.path:
            return msgspec.structs.replace(entry, kind="hardlink", link=first, size=0, inode=0)
        return msgspec.structs.replace(entry, inode=0) if entry.inode else entry


def _groups(index: _Index) -> dict[str, tuple[str, ...]]:
    """Return all names, in order, of each file with several of them, by each of its names."""
    by_inode: dict[int, list[str]] = {}
    for path, entry in index.items():
        if entry.inode:
            by_inode.setdefault(entry.inode, []).append(path)
    return {
        path: tuple(names)
        for found in by_inode.values()
        if len(found) > 1
        for names in [sorted(found, key=path_key)]
        for path in names
    }


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
