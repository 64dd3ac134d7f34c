"""The one tree that a stack of layers shows.

Layers are applied base first and entry by entry, as unpacking them one over the other would
(image-spec, layer.md, Applying Changesets), but on entries alone:

- whiteouts and opaque directories remove what *lower* layers brought, never
  what their own layer brings, wherever in the layer they stand;
- a directory over a directory merges and takes the later metadata; anything
  else replaces what was there, with all that was below it;
- a hard link becomes a full entry of the file it names at that moment, in its own
  layer or a lower one, and both get the same `inode`;
- a directory that no layer lists is made (`implied`).

An entry is worked out when it is looked at. `merge` looks at most layers where they are (`shipway.trees.stacked`);
`MergedTree` takes any, for the cost of one pass over the paths and of a list of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from shipway.errors import UnsafeEntry
from shipway.trees.entry import Entry, implied, join, name_key, parent_of
from shipway.trees.listing import Listing, listing
from shipway.trees.rows import LayerRows
from shipway.trees.stacked import StackedTree


class Merged(Protocol):
    """The merged view of layers; what is not in it is not in the tree."""

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""

    def origin_of(self, entry: Entry) -> tuple[int, str]:
        """Return which layer holds the content of a file of this tree, and under what path there.

        Layers count from 0 for the base. Path and entry differ for the further names of a file.
        """

    def __len__(self) -> int: ...


def merge(layers: Sequence[Iterable[Entry]], where: str = "image") -> Merged:
    """Return the merged view of `layers`, base first; see `MergedTree`.

    Where the order of entries in each layer does not matter, which is the rule, it takes next to no memory.
    """
    listings = [listing(layer) for layer in layers]
    rows = [row for one in listings if (row := LayerRows.of(one)) is not None]
    if len(rows) == len(listings) and (stacked := StackedTree(rows)).fits():
        return stacked
    return MergedTree(listings, where)


_ORDINARY = frozenset(("reg", "dir", "symlink", "fifo"))


class MergedTree:
    """The merged view of `layers`, base first; what is not in it is not in the tree.

    `where` names the layers in messages, by their place. Raises `UnsafeEntry` for a hard link to a directory,
    itself, what it would take the place of or nothing, and for an entry below something that is not a directory.
    """

    def __init__(self, layers: Sequence[Iterable[Entry]], where: str = "image") -> None:
        self._where = where
        self._entries: dict[str, Entry | int] = {"": implied("")}
        """What is at each path; a number is its place in its layer, where nobody looked at it yet."""
        self._layers: dict[str, int] = {"": -1}
        self._children: dict[str, dict[str, None]] = {"": {}}
        self._sorted: dict[str, list[str]] = {}
        self._origins: dict[int, tuple[int, str]] = {}
        self._listings = [listing(layer) for layer in layers]
        for number, layer in enumerate(self._listings):
            self._apply(number, layer)

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        entry = self._entries.get(path)
        if isinstance(entry, int):
            entry = self._listings[self._layers[path]].entry(entry)
            if entry.inode:  # numbers of a layer mean nothing here
                entry = replace(entry, inode=0)
            self._entries[path] = entry
        return entry

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        names = self._sorted.get(path)
        if names is None:
            names = self._sorted[path] = sorted(self._children.get(path, ()), key=name_key)
        return names

    def origin_of(self, entry: Entry) -> tuple[int, str]:
        """Return which layer holds the content of a file of this tree, and under what path there.

        Layers count from 0 for the base. Path and entry differ for the further names of a file.
        """
        if entry.inode:
            return self._origins[entry.inode]
        return self._layers[entry.path], entry.path

    def __len__(self) -> int:
        return len(self._entries)

    def _apply(self, number: int, layer: Listing) -> None:
        entries, layers, children = self._entries, self._layers, self._children
        own: set[str] = {""}
        """Paths at or below which this layer has something."""
        for index, (path, kind) in enumerate(zip(layer.paths, layer.kinds, strict=True)):
            if not path and kind != "opaque":
                self._take_root(number, layer.entry(index))
                continue
            entry: Entry | int = index
            holder = number
            if kind == "hardlink":
                entry, holder = self._linked(number, layer.entry(index))
            elif kind not in _ORDINARY and self._remove_lower(layer.entry(index), own):
                continue
            parent, _, name = path.rpartition("/")
            siblings = children.get(parent)
            if siblings is None:
                siblings = self._make_directory(number, parent)
            if kind == "dir":
                children.setdefault(path, {})
            elif path in children:
                self._remove(path)
            siblings[name] = None
            entries[path] = entry
            layers[path] = holder
            own.add(path)
            if parent not in own:
                _add_with_parents(own, parent)

    def _remove_lower(self, entry: Entry, own: set[str]) -> bool:
        """Remove what `entry` says of what lower layers brought; return False if it is no such entry."""
        path = entry.path
        if entry.kind == "opaque":
            if path in self._children:
                _add_with_parents(own, path)
                self._empty(path, own)
            return True
        if entry.kind == "whiteout" or entry.dev == (0, 0):  # a device 0:0 is overlayfs' own whiteout
            if path in own:
                self._empty(path, own)
            else:
                self._remove(path)
            return True
        return False

    def _take_root(self, number: int, entry: Entry) -> None:
        if entry.kind != "dir":
            raise UnsafeEntry(f"a {entry.kind} in place of the root", where=self._layer_name(number))
        self._entries[""] = entry
        self._layers[""] = number

    def _linked(self, number: int, link: Entry) -> tuple[Entry, int]:
        """Return a hard link as the file it names, and the layer that holds its content."""
        target = self.get(link.link)
        below = link.link.startswith(link.path + "/")
        if target is None or target.is_dir or below or link.link == link.path:
            what = "nothing" if target is None else "a directory" if target.is_dir else "what it replaces"
            raise UnsafeEntry(
                f"{link.path[:200]!r} is a hard link to {what}, {link.link[:200]!r}", where=self._layer_name(number)
            )
        holder = self._layers[target.path]
        if not target.inode:
            target = self._entries[target.path] = replace(target, inode=len(self._origins) + 1)
            self._origins[target.inode] = (holder, target.path)
        return replace(target, path=link.path), holder

    def _make_directory(self, number: int, path: str) -> dict[str, None]:
        """Make the directory `path` and those above it that are lacking; return its names."""
        lacking = [path]
        while (parent := parent_of(lacking[-1])) not in self._children:
            lacking.append(parent)
        for missing in reversed(lacking):
            if missing in self._entries:
                raise UnsafeEntry(
                    f"{missing[:200]!r} holds entries but is no directory", where=self._layer_name(number)
                )
            parent, _, name = missing.rpartition("/")
            self._children[parent][name] = None
            self._entries[missing] = implied(missing)
            self._layers[missing] = -1
            self._children[missing] = {}
        return self._children[path]

    def _remove(self, path: str) -> None:
        if path not in self._entries:
            return
        self._empty(path)
        self._children.pop(path, None)
        del self._entries[path], self._layers[path]
        parent, _, name = path.rpartition("/")
        del self._children[parent][name]

    def _empty(self, path: str, but: Container[str] = ()) -> None:
        """Remove what is below a directory, except for the paths in `but`."""
        pending = [path]
        while pending:
            path = pending.pop()
            names = self._children.get(path, {})
            for name in list(names):
                below = join(path, name)
                if below in self._children:
                    pending.append(below)
                if below not in but:
                    del self._entries[below], self._layers[below], names[name]
            if path not in self._entries:
                self._children.pop(path, None)

    def _layer_name(self, number: int) -> str:
        return f"{self._where}, layer {number}"


def _add_with_parents(own: set[str], path: str) -> None:
    while path not in own:
        own.add(path)
        path = parent_of(path)
