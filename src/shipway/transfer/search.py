"""Finding sources in layers that arrive from the top: what may be wanted, and when enough has been seen.

Layers are looked at from the topmost to the base, and a layer that is read
as a stream entry by entry. A file that is found in a layer, with nothing
above it in the way, is *the* file: no lower layer, and nothing that follows in its own, can
change that. So when every source is found like this, reading can stop. Whatever
makes it less simple (a directory, a pattern, a symlink or a whiteout on the way, a hard link)
means that all must be read.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from copy import deepcopy
from typing import Self

from shipway.trees.entry import Entry, join, parent_of
from shipway.trees.listing import Listing
from shipway.trees.patterns import fixed_prefix, has_magic

_FINAL = ("reg", "symlink", "char", "block", "fifo")


class Search:
    """What an extract of `sources` looks for."""

    def __init__(self, sources: Sequence[str], *, parents: bool, wildcard: bool) -> None:
        self._prefixes: set[str] = set()
        """Paths that may be wanted with all that is below them."""
        self._missing: set[str] = set()
        """Paths that were not found yet."""
        self._above: set[str] = set()
        """Directories that are on the way to a source."""
        self._targets: set[str] = set()
        self._seen: list[Container[str]] = []
        """The paths at which each upper layer has something."""
        self._is_simple = bool(sources)
        for source in sources or ("/",):
            is_pattern = wildcard and has_magic(source)
            self._add(fixed_prefix(source) if is_pattern else source)
            self._is_simple &= not is_pattern
        self._below = tuple(path + "/" for path in self._targets)
        if parents:
            self._missing |= self._above - {""}

    def _add(self, source: str) -> None:
        parts = [part for part in source.split("/") if part not in ("", ".")]
        literal = bool(parts) and ".." not in parts and source.rstrip("/") == source and not source.endswith("/.")
        self._is_simple &= literal
        path = _normal("", source)
        self._prefixes.add(path)
        if literal:
            self._missing.add(path)
            self._targets.add(path)
            while path:
                path = parent_of(path)
                self._above.add(path)

    def wants(self, path: str) -> bool:
        """Whether the content of a file at `path` of the present layer may be needed."""
        prefix, prefixes = path, self._prefixes
        while prefix not in prefixes:
            if not prefix:
                return False
            prefix = parent_of(prefix)
        return not any(path in paths for paths in self._seen)

    def look(self, entry: Entry) -> bool:
        """Take notice of one entry of the present layer; return whether enough has been seen.

        Once that is so it stays so: nothing more needs to be looked at.
        """
        path, is_dir = entry.path, entry.kind == "dir"
        if path in self._missing and (is_dir if path not in self._targets else entry.kind in _FINAL):
            self._missing.discard(path)
        elif path in self._missing or path.startswith(self._below):
            self._is_simple = False
        if path in self._above and not is_dir:
            self._is_simple = False
            if entry.kind == "symlink":
                self._redirect(entry)
        return self.satisfied

    @property
    def satisfied(self) -> bool:
        """Whether enough has been seen."""
        return self._is_simple and not self._missing

    def look_at_layer(self, entries: Listing) -> bool:
        """Take notice of a whole layer; return whether enough has been seen."""
        enough = any(self.look(entry) for entry in entries)
        self.leave_layer(entries)
        return enough

    def leave_layer(self, entries: Listing) -> None:
        """Go down to the next layer, having looked at all entries of this one."""
        self._seen.append(entries.paths)

    def copy(self) -> Self:
        """Return another that looks for the same, and has seen the same layers."""
        return deepcopy(self, {id(paths): paths for paths in self._seen})

    def _redirect(self, link: Entry) -> None:
        """Guess where sources below a symlink really are, so that this reading may be the only one."""
        target = _normal("" if link.link.startswith("/") else parent_of(link.path), link.link)
        for path in [path for path in self._prefixes if path.startswith(link.path + "/")]:
            self._prefixes.add(join(target, path[len(link.path) + 1 :]))


def _normal(base: str, path: str) -> str:
    """Return where `path` leads from the directory `base` if there are no symlinks."""
    for part in path.split("/"):
        if part == "..":
            base = parent_of(base)
        elif part not in ("", "."):
            base = join(base, part)
    return base
