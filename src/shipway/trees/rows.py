"""A layer that means the same whatever the order of its entries, looked at where it is.

That is nearly every layer: no path comes twice, each directory is listed before what is in it, nothing is below
something else, and hard links name files of the same layer that come before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, Self

from msgspec.structs import replace

from shipway.trees.entry import Entry, Kind, path_key
from shipway.trees.listing import Listing

_NO_LINK: frozenset[Kind] = frozenset(("dir", "whiteout", "opaque"))


class _OrderMatters(Exception):
    """What the layer means is for who goes through it entry by entry to say."""


class What(Enum):
    """What a layer has at a path."""

    NOTHING = 0
    REMOVAL = 1
    ENTRY = 2
    DIRECTORY = 3
    IMPLIED = 4
    """A directory that it does not list but has something in."""


class Row(NamedTuple):
    """What a layer has at a path; `opaque` if it hides what lower layers have below that."""

    what: What
    number: int = -1
    """Of an entry, its index."""
    opaque: bool = False


class LayerRows:
    """The rows of a layer by path."""

    def __init__(self, layer: Listing) -> None:
        self._layer = layer
        self._paths, self._kinds = layer.paths, layer.kinds
        self._order = layer.paths.order
        self._next = 0
        """Where a row is looked for first: behind the last one."""
        self._marked = bool(self._kinds.all("opaque"))
        """Whether it may have two rows at a path."""
        self._removals = set(self._kinds.all("whiteout"))
        # A device 0:0 is overlayfs' own whiteout.
        self._removals |= {index for index in self._kinds.all("char") if layer.entry(index).dev == (0, 0)}
        self._targets: dict[int, int] = {}
        """Hard links, and the files that they name."""
        self._linked: set[int] = set()
        self._implied: set[bytes] = set()
        """The sort keys of directories that are not listed, but hold something."""
        self._check_order()
        self._find_targets()

    @classmethod
    def of(cls, layer: Listing) -> Self | None:
        """Return the rows of a layer; None if the order of its entries matters."""
        try:
            return cls(layer)
        except _OrderMatters:
            return None

    @property
    def removes(self) -> bool:
        """Whether it removes anything."""
        return self._marked or bool(self._removals)

    @property
    def implied(self) -> Iterator[str]:
        """The paths of directories that it does not list but has something in."""
        return map(_path_of, self._implied)

    def __len__(self) -> int:
        return len(self._layer)

    def _check_order(self) -> None:
        kinds = self._kinds
        above: list[tuple[bytes, int]] = [(b"", -1)]
        """The directories that the last row is in, or is, and their indexes."""
        inside, newest = b"", -1
        before, before_kind = b"\xff", ""
        for index, key in zip(self._order, self._paths.keys(), strict=True):
            kind = kinds[index]
            if key == before and {kind, before_kind} != {"dir", "opaque"}:
                raise _OrderMatters
            if not key:
                if kind not in ("dir", "opaque"):
                    raise _OrderMatters
                newest = max(newest, index) if kind == "dir" else newest
            else:
                parent = key.rpartition(b"\0")[0]
                if parent != inside:
                    if before_kind not in ("dir", "opaque") and key.startswith(before + b"\0"):
                        raise _OrderMatters
                    self._enter(parent, above, making=kind != "opaque" and index not in self._removals)
                    inside, newest = above[-1]
                if newest > index:
                    raise _OrderMatters
                if kind == "dir":
                    above.append((key, index))
                    inside, newest = key, index
            before, before_kind = key, kind

    def _enter(self, parent: bytes, above: list[tuple[bytes, int]], *, making: bool) -> None:
        """Go to the directory `parent` from the last one; with `making` those between, if not listed, are implied."""
        while above[-1][0] and not (parent + b"\0").startswith(above[-1][0] + b"\0"):
            above.pop()
        known = above[-1][0]
        if known == parent or not making:
            return
        for name in parent[len(known) + 1 if known else 0 :].split(b"\0"):
            known = known + b"\0" + name if known else name
            above.append((known, -1))
            self._implied.add(known)

    def _find_targets(self) -> None:
        for index in self._kinds.all("hardlink"):
            link = self._layer.entry(index).link
            row = self.find(path_key(link))
            if row.what is not What.ENTRY or row.number >= index or self._kinds[row.number] in _NO_LINK:
                raise _OrderMatters
            target = self._targets.get(row.number, row.number)
            self._targets[index] = target
            self._linked.add(target)

    def index(self, key: bytes) -> int:
        """Return the index of the first row at the path with a sort key; -1 if there is none."""
        place = self._next
        if place >= len(self._order) or self._paths.at(place) != key:
            place = self._paths.find(key)
            if place >= len(self._order) or self._paths.at(place) != key:
                return -1
        self._next = place + 1
        return self._order[place]

    def find(self, key: bytes) -> Row:
        """Return what is at the path with a sort key."""
        if not self._marked:
            index = self.index(key)
            return self._with(Row(What.NOTHING), index) if index >= 0 else self._unlisted(key)
        order, key_at = self._order, self._paths.at
        row = self._unlisted(key)
        for place in range(self._paths.find(key), len(order)):
            if key_at(place) != key:
                break
            row = self._with(row, order[place])
        return row

    def _unlisted(self, key: bytes) -> Row:
        return Row(What.IMPLIED if key in self._implied else What.NOTHING)

    def _with(self, row: Row, index: int) -> Row:
        """Return what is at a path besides a row that was found there."""
        kind = self._kinds[index]
        if kind == "opaque":
            return row._replace(opaque=True)
        what = What.DIRECTORY if kind == "dir" else What.REMOVAL if index in self._removals else What.ENTRY
        return Row(what, index, row.opaque)

    def names(self, key: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield the names of what is right in a directory, in byte order, and whether that is sure to be shown."""
        order, key_at = self._order, self._paths.at
        prefix = key + b"\0" if key else b""
        place = self._paths.find(prefix or b"\0")
        before = b""
        while place < len(order):
            index = order[place]
            at = key_at(place)
            if not at.startswith(prefix):
                return
            name, below, _ = at[len(prefix) :].partition(b"\0")
            kind = self._kinds[index]
            if name != before:
                sure = prefix + name in self._implied if below else kind != "opaque" and index not in self._removals
                yield name, sure
                before = name
            place += 1
            if below or (kind in ("dir", "opaque") and self._holds(place, at)):  # pass over what is below it
                place = self._paths.find(prefix + name + b"\1")

    def holds(self, key: bytes) -> bool:
        """Whether there are rows below the path with a sort key, or for the root any."""
        return self._holds(self._paths.find(key + b"\0"), key) if key else len(self._order) > 0

    def _holds(self, place: int, key: bytes) -> bool:
        """Whether the row at a place is below the path with a sort key."""
        return place < len(self._order) and self._paths.at(place).startswith(key + b"\0")

    def entry(self, index: int, inodes: int) -> Entry:
        """Return an entry; names of one file have one inode, numbered from `inodes` on."""
        target = self._targets.get(index, index)
        entry = self._layer.entry(target)
        inode = inodes + target + 1 if target in self._linked else 0
        if target != index:
            return replace(entry, path=self._paths[index], inode=inode)
        return replace(entry, inode=inode) if inode != entry.inode else entry

    def path(self, index: int) -> str:
        """Return the path of an entry."""
        return self._paths[index]


def _path_of(key: bytes) -> str:
    return key.replace(b"\0", b"/").decode("utf-8", "surrogateescape")
