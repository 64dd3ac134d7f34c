"""The one tree that layers show, looked at where they are, without a list of all of it.

For layers whose entries mean the same in any order (`shipway.trees.rows`); what they show is what
`shipway.trees.merged` says.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from shipway.trees.entry import Entry, implied, join, parent_of, path_key
from shipway.trees.rows import LayerRows, Row, What

_FLOORS = 4096
"""Directories that are remembered."""


class StackedTree:
    """The merged view of `layers`, base first. Thread-safe."""

    def __init__(self, layers: Sequence[LayerRows]) -> None:
        """Show these."""
        self._layers = layers
        self._inodes = list(accumulate(map(len, layers), initial=0))
        self._floors: dict[str, int] = {}
        self._is_plain = len(layers) == 1 and not layers[0].removes

    def fits(self) -> bool:
        """Whether there is a directory, or nothing, wherever a layer has something below and lists no directory."""
        for number, layer in enumerate(self._layers):
            below = StackedTree(self._layers[:number])
            for path in layer.implied if number else ():
                there = below.get(path)
                if there is not None and not there.is_dir:
                    return False
        return True

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        key = path_key(path)
        if self._is_plain:
            index = self._layers[0].index(key)
            if index >= 0:
                return self._layers[0].entry(index, 0)
        number, row, _ = self._look(key, self._floor(parent_of(path)) if path else 0)
        if row is None:
            return None if path else implied("")
        return implied(path) if row.number < 0 else self._layers[number].entry(row.number, self._inodes[number])

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        key, floor = path_key(path), self._floor(path)
        layers = self._layers[floor:]
        found: dict[bytes, bool] = {}
        for layer in layers:
            for name, sure in layer.names(key):
                found[name] = sure and name not in found
        prefix = key + b"\0" if key else b""
        return [
            os.fsdecode(name)
            for name in (sorted(found) if len(layers) > 1 else found)
            if found[name] or self._look(prefix + name, floor)[1] is not None
        ]

    def origin_of(self, entry: Entry) -> tuple[int, str]:
        """Return which layer holds the content of a file of this tree, and under what path there.

        Layers count from 0 for the base. Path and entry differ for the further names of a file.
        """
        if entry.inode:
            number = bisect_right(self._inodes, entry.inode - 1) - 1
            return number, self._layers[number].path(entry.inode - 1 - self._inodes[number])
        if len(self._layers) == 1:
            return 0, entry.path
        return self._look(path_key(entry.path), self._floor(parent_of(entry.path)))[0], entry.path

    def __len__(self) -> int:
        count, pending = 0, [""]
        while pending:
            path = pending.pop()
            count += 1
            pending += [join(path, name) for name in self.names(path)]
        return count

    def _look(self, key: bytes, floor: int) -> tuple[int, Row | None, int]:
        """Return which layer shows what at a path, and the lowest that shows below it; `floor` is that of its parent.

        If nothing is shown there, or no directory, no layer shows below it: the last is past the end.
        """
        shown: Row | None = None
        holder, below = -1, floor
        for number in range(floor, len(self._layers)):
            row = self._layers[number].find(key)
            if row.opaque or row.what is What.REMOVAL:
                below = number
            if row.what is What.REMOVAL:
                shown = None
            elif row.what is What.IMPLIED:
                if shown is None:
                    shown, holder = row, number
            elif row.what is not What.NOTHING:
                if row.what is What.ENTRY or (shown is not None and shown.what is What.ENTRY):
                    below = number
                shown, holder = row, number
        is_directory = shown is not None and shown.what is not What.ENTRY
        return holder, shown, below if is_directory or not key else len(self._layers)

    def _floor(self, path: str) -> int:
        """Return the lowest layer that shows below a directory; past the last one if none does, or it is none."""
        if self._is_plain:
            return 0
        lacking = []
        while path not in self._floors:
            lacking.append(path)
            if not path:
                break
            path = parent_of(path)
        floor = self._floors.get(path, 0)
        for one in reversed(lacking):
            if len(self._floors) >= _FLOORS:
                self._floors.clear()
            floor = self._floors[one] = self._look(path_key(one), floor)[2]
        return floor
