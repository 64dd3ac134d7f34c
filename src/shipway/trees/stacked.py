"""The one tree that layers show, looked at where they are, without a list of all of it.

For layers whose entries mean the same in any order (`shipway.trees.rows`); what they show is what
`shipway.trees.merged` says.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from shipway.trees.entry import Entry, implied, join, parent_of, path_key
from shipway.trees.rows import LayerRows, Row, What

_KNOWN = 4096
"""Directories that are remembered."""


class StackedTree:
    """The merged view of `layers`, base first. Thread-safe."""

    def __init__(self, layers: Sequence[LayerRows]) -> None:
        """Show these."""
        self._layers = layers
        self._inodes = list(accumulate(map(len, layers), initial=0))
        self._known: dict[str, tuple[int, ...]] = {}
        """The layers that show something in a directory."""
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
        number, row, _ = self._look(key, self._around(path))
        if row is None:
            return None if path else implied("")
        return implied(path) if row.number < 0 else self._layers[number].entry(row.number, self._inodes[number])

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        key, layers = path_key(path), self._inside(path)
        found: dict[bytes, bool] = {}
        for number in layers:
            for name, sure in self._layers[number].names(key):
                found[name] = sure and name not in found
        prefix = key + b"\0" if key else b""
        return [
            os.fsdecode(name)
            for name in (sorted(found) if len(layers) > 1 else found)
            if found[name] or self._look(prefix + name, layers)[1] is not None
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
        return self._look(path_key(entry.path), self._around(entry.path))[0], entry.path

    def __len__(self) -> int:
        count, pending = 0, [""]
        while pending:
            path = pending.pop()
            count += 1
            pending += [join(path, name) for name in self.names(path)]
        return count

    def _look(self, key: bytes, layers: Iterable[int]) -> tuple[int, Row | None, int]:
        """Return which of `layers` shows what at a path, and the lowest layer that shows below it.

        If nothing is shown there, or no directory, no layer shows below it: the lowest is past the end.
        """
        shown: Row | None = None
        holder, below = -1, 0
        for number in layers:
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

    def _around(self, path: str) -> Sequence[int]:
        """Return the layers that may show something at a path."""
        return self._inside(parent_of(path)) if path else range(len(self._layers))

    def _inside(self, path: str) -> Sequence[int]:
        """Return the layers that show something in the directory `path`; none if it is no directory."""
        if self._is_plain:
            return (0,)
        lacking = []
        while (layers := self._known.get(path)) is None:
            lacking.append(path)
            if not path:
                layers = tuple(range(len(self._layers)))
                break
            path = parent_of(path)
        for one in reversed(lacking):
            key = path_key(one)
            below = self._look(key, layers)[2]
            layers = tuple(number for number in layers if number >= below and self._layers[number].holds(key))
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[one] = layers
        return layers
