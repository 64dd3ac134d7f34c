"""Which objects a content checksum with a wildcard, or with include and exclude patterns, is over."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shipway.errors import NotFound
from shipway.trees.entry import Entry, join
from shipway.trees.ignore import Matched, Patterns, compile_glob
from shipway.trees.patterns import has_magic
from shipway.trees.select import Listing, resolve


@dataclass(frozen=True, slots=True)
class Included:
    """One object: `path` is the one that was asked for, which symlinks may have led away from."""

    path: str
    entry: Entry
    is_top: bool
    """Whether it is in no directory that was looked through: a symlink is then followed, if any is."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The objects in order, a directory standing for its header, and the prefix that their names lack."""

    prefix: str
    items: Iterator[Included]
    """Each is found when it is asked for."""


Walk = Callable[[str], Iterable[Entry]]
"""Returns all there is at and below a path that is in the tree, in walk order, itself first."""


def clean(path: str) -> str:
    """Return a path as it is asked for in the form that trees use: `..` goes back by name, before any symlink."""
    return posixpath.normpath("/" + path).lstrip("/")


def included(
    tree: Listing, walked: Walk, path: str, *, wildcard: bool, include: Sequence[str], exclude: Sequence[str]
) -> Inclusion:
    """Return what is meant by `path` and, relative to it or to each match of it, the patterns.

    A directory counts if it fits itself or holds something that does. A path that ends in a slash, as `/`
    does, leaves the directory itself out. Raises `Invalid` for a malformed pattern.
    """
    asked = clean(path)
    filters = _Filters(Patterns(include) if include else None, Patterns(exclude) if exclude else None)
    if wildcard:
        prefix, tops = _matches(tree, asked)
    else:
        found = _found(tree, asked, follow_last=False)
        prefix, tops = asked, [] if found is None else [(asked, found)]
    contents = path.endswith("/")
    items = (item for top in tops for item in filters.fitting(walked, *top, contents=contents and top[0] == asked))
    return Inclusion(prefix, items)


def _matches(tree: Listing, pattern: str) -> tuple[str, list[tuple[str, Entry]]]:
    """Return the part of a pattern without wildcards, and what matches: the path as asked, and the entry."""
    parts = pattern.split("/") if pattern else []
    fixed = next((place for place, part in enumerate(parts) if has_magic(part)), len(parts))
    prefix = "/".join(parts[:fixed])
    globs = [compile_glob(part).fullmatch for part in parts[fixed:]]
    top = _found(tree, prefix, follow_last=bool(globs))
    found = [] if top is None else [(prefix, top)]
    for fits in globs:
        found = [
            (join(path, name), entry)
            for path, directory in found
            for name in (tree.names(directory.path) if directory.is_dir else ())
            if fits(name) and (entry := tree.get(join(directory.path, name))) is not None
        ]
    return prefix, found


def _found(tree: Listing, path: str, *, follow_last: bool) -> Entry | None:
    try:
        return tree.get(resolve(tree, path, follow_last=follow_last))
    except NotFound:
        return None


@dataclass(slots=True)
class _Seen:
    """An object on the way through a tree, and what the patterns said of it."""

    item: Included
    relative: str
    parent: _Seen | None
    asked: tuple[Matched, Matched] = ((), ())
    taken: bool = False
    skipped: bool = False
    """Whether it is only looked through."""


@dataclass(frozen=True, slots=True)
class _Filters:
    include: Patterns | None
    exclude: Patterns | None

    def fitting(self, walked: Walk, path: str, top: Entry, *, contents: bool) -> Iterator[Included]:
        """Yield what fits at and below `top`, after the directories that it is in; `path` is what `top` goes by."""
        directories: list[_Seen] = []
        for entry in walked(top.path):
            directory, _, name = entry.path.rpartition("/")
            while directories and directories[-1].item.entry.path != directory:
                directories.pop()
            if directories:
                above = directories[-1]
                item = Included(join(above.item.path, name), entry, is_top=above.skipped)
                seen = _Seen(item, join(above.relative, name), None if above.skipped else above)
            else:
                seen = _Seen(Included(path, top, is_top=True), "", None, skipped=contents and top.is_dir)
            if not seen.skipped and self._fits(seen):
                yield from _with_directories(seen)
            if entry.is_dir:
                directories.append(seen)

    def _fits(self, seen: _Seen) -> bool:
        of_include, of_exclude = seen.parent.asked if seen.parent is not None else ((), ())
        included, excluded = True, False
        if self.include is not None:
            included, of_include = self.include.match(seen.relative, of_include)
        if self.exclude is not None:
            if included:
                excluded, of_exclude = self.exclude.match(seen.relative, of_exclude)
            else:
                of_exclude = ()
        seen.asked = (of_include, of_exclude)
        return included and not excluded


def _with_directories(seen: _Seen) -> list[Included]:
    """Return the directories that an object is in and that were not yielded yet, and the object."""
    items: list[Included] = []
    one: _Seen | None = seen
    while one is not None and not one.taken:
        one.taken = True
        items.append(one.item)
        one = one.parent
    return items[::-1]
