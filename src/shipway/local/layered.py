"""The one tree that layers show, gone through in the order of paths without ever having all of it.

It is what `trees/merged.py` says, for layers that the snapshot drivers tell of: each in the order of paths, every
entry after the directories it is in, a hard link after the file that it is a name of, in the same layer.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, takewhile
from operator import itemgetter

from shipway.local.changes import Changes, LocatedEntry, Place, entry_of
from shipway.trees.entry import Entry, implied, parent_of, path_key

_Numbered = tuple[int, Place]
"""A row, and the number of its layer."""


class LayeredTree:
    """The merged view of layers, base first; see `shipway.trees.select.Listing`. One thread at a time."""

    def __init__(self, layers: Sequence[Changes]) -> None:
        """Look at `layers`; nothing is read yet."""
        self._layers = layers
        self._floors: dict[str, int] = {}

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        floor = self._floor(parent_of(path)) if path else 0
        shown, _ = self._look(path_key(path), floor)
        if shown is None:
            return None if path else implied("")
        return self._entry(shown)

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        floor = self._floor(path)
        prefix = _below(path_key(path))
        found: dict[bytes, list[_Numbered]] = {}
        for number in range(floor, len(self._layers)):
            for key, place in _children(self._layers[number], prefix):
                found.setdefault(key[len(prefix) :], []).append((number, place))
        return [
            os.fsdecode(name) for name in sorted(found) if _shown(found[name], floor, len(self._layers))[0] is not None
        ]

    def walk(self, path: str) -> Iterator[Entry]:
        """Yield all there is at and below `path`, which is in the tree, in walk order, itself first."""
        key = path_key(path)
        if not path and self._look(key, 0)[0] is None:
            yield implied("")
        floor = self._floor(parent_of(path)) if path else 0
        if len(self._layers) == 1:
            for _, place in _at_and_below(self._layers[0], key):
                if not place.row.removes and place.row.kind != "opaque":
                    yield self._entry(place)
            return
        open_directories = [(b"", floor)]
        rows = heapq.merge(*(_numbered(number, layer, key) for number, layer in enumerate(self._layers)))
        for one, group in groupby(rows, itemgetter(0)):
            while not one.startswith(open_directories[-1][0]):
                open_directories.pop()
            shown, floor = _shown(
                ((number, place) for _, number, _, place in group), open_directories[-1][1], len(self._layers)
            )
            open_directories.append((_below(one), floor))
            if shown is not None:
                yield self._entry(shown)

    def _floor(self, path: str) -> int:
        """Return the lowest layer that shows below a directory; past the last one if none does, or it is none."""
        floor = self._floors.get(path)
        if floor is None:
            above = self._floor(parent_of(path)) if path else 0
            shown, floor = self._look(path_key(path), above)
            if shown is None and not path:
                floor = 0
            self._floors[path] = floor
        return floor

    def _look(self, key: bytes, floor: int) -> tuple[Place | None, int]:
        numbers = range(floor, len(self._layers))
        rows = ((number, place) for number in numbers for place in self._layers[number].find(key))
        return _shown(rows, floor, len(self._layers))

    def _entry(self, place: Place) -> LocatedEntry:
        if place.row.kind != "hardlink":
            return entry_of(place, place)
        (target,) = place.layer.find(place.row.link.replace(b"/", b"\0"))
        return entry_of(place, target)


def _shown(rows: Iterable[_Numbered], floor: int, count: int) -> tuple[Place | None, int]:
    """Return what shows at a path, of which layers have `rows`, and the lowest layer that shows below it.

    `floor` is that of the directory above, `count` how many layers there are.
    """
    shown: Place | None = None
    below = floor
    for number, place in rows:
        if number < floor:
            continue
        if place.row.kind == "opaque":
            below = number
        elif place.row.removes:
            shown, below = None, number
        else:
            if place.row.kind != "dir" or (shown is not None and shown.row.kind != "dir"):
                below = number
            shown = place
    return shown, below if shown is not None and shown.row.kind == "dir" else count


def _below(key: bytes) -> bytes:
    """Return what the sort keys of all that is below a directory begin with."""
    return key + b"\0" if key else b""


def _numbered(number: int, layer: Changes, key: bytes) -> Iterator[tuple[bytes, int, int, Place]]:
    """Yield the rows at and below a path with what puts them in order with those of other layers."""
    return ((one, number, index, place) for index, (one, place) in enumerate(_at_and_below(layer, key)))


def _at_and_below(layer: Changes, key: bytes) -> Iterator[tuple[bytes, Place]]:
    prefix = _below(key)
    if not key:
        return layer.scan()
    at = ((key, place) for place in layer.find(key))
    return chain(at, takewhile(lambda row: row[0].startswith(prefix), layer.scan(prefix)))


def _children(layer: Changes, prefix: bytes) -> Iterator[tuple[bytes, Place]]:
    """Yield what a layer has right in a directory, passing over what is below that."""
    start = prefix or b"\0"
    while True:
        inside = b""
        for key, place in layer.scan(start):
            if not key.startswith(prefix):
                return
            if inside and key.startswith(inside):
                start = inside[:-1] + b"\1"
                break
            yield key, place
            inside = key + b"\0"
        else:
            return
