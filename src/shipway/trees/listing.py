"""The entries of a layer, each worked out when it is looked at.

Which paths a layer has, and what kind of thing is at each, is all that it takes to lay layers
over each other. A table of contents tells that at once; the rest of its entries is worked out, and
checked, only where somebody looks, which of a large layer is often a single file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from shipway.errors import Corrupt
from shipway.trees.entry import Entry
from shipway.trees.packed import BLOCK, PackedEntries
from shipway.trees.paths import PackedKinds, PackedPaths

_KEPT = 4
"""Blocks that are kept as they are."""


class Listing(ABC):
    """The entries of a layer in its order. Immutable."""

    paths: PackedPaths
    """The path of each entry."""
    kinds: PackedKinds
    """The kind of each entry."""

    @abstractmethod
    def entry(self, index: int) -> Entry:
        """Return one entry; raises `Corrupt` or `UnsafeEntry` if what is said of it cannot be."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The bytes of all files, as they are claimed."""

    @property
    @abstractmethod
    def data(self) -> int:
        """The bytes of all files but for holes, as they are claimed."""

    def place(self, path: str, digest: str) -> int:
        """Return the index of the file at `path` with the content that has a digest; `Corrupt` if there is none.

        Of a path that comes twice either may be meant: the first may be what a hard link names.
        """
        places = list(self.paths.having(path))
        if len(places) > 1:
            places = [one for one in places if self.entry(one).digest == digest]
        if not places:
            raise Corrupt("is not in its layer with that content", where=path)
        return places[0]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(len(self.paths)))


class Listed(Listing):
    """Entries that were gone through already; they are kept packed, and a few blocks of them as they are."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """List `entries`, of which no more is kept if they are packed."""
        packed: PackedEntries[Entry] = entries if isinstance(entries, PackedEntries) else PackedEntries(entries)
        self._block = lru_cache(_KEPT)(packed.block)
        self._size, self._zeros = packed.size, 0
        self.kinds = PackedKinds()
        self.paths = PackedPaths(map(self._list, packed.blocks()))

    def _list(self, entries: Sequence[Entry]) -> list[str]:
        for entry in entries:
            self.kinds.append(entry.kind)
            if entry.chunks:
                self._zeros += sum(chunk.size for chunk in entry.chunks if chunk.zeros)
        return [entry.path for entry in entries]

    def entry(self, index: int) -> Entry:
        """Return one entry."""
        number, place = divmod(index, BLOCK)
        return self._block(number)[place]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return self._size

    @property
    def data(self) -> int:
        """The bytes of all files but for holes."""
        return self._size - self._zeros


def listing(entries: Iterable[Entry]) -> Listing:
    """Return entries as a listing, which they may be already."""
    return entries if isinstance(entries, Listing) else Listed(entries)
