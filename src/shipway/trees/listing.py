"""The entries of a layer, each worked out when it is looked at.

Which paths a layer has, and what kind of thing is at each, is all that it takes to lay layers
over each other. A table of contents tells that at once; the rest of its entries is worked out, and
checked, only where somebody looks, which of a large layer is often a single file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from shipway.trees.entry import Entry
from shipway.trees.paths import PackedKinds, PackedPaths


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

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(len(self.paths)))


class Listed(Listing):
    """Entries that are there already."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """List `entries`."""
        self._entries = entries if isinstance(entries, Sequence) else list(entries)
        self.paths = PackedPaths([[entry.path for entry in self._entries]])
        self.kinds = PackedKinds(entry.kind for entry in self._entries)

    def entry(self, index: int) -> Entry:
        """Return one entry."""
        return self._entries[index]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self._entries)

    @property
    def data(self) -> int:
        """The bytes of all files but for holes."""
        return self.size - sum(chunk.size for entry in self._entries for chunk in entry.chunks if chunk.zeros)


def listing(entries: Iterable[Entry]) -> Listing:
    """Return entries as a listing, which they may be already."""
    return entries if isinstance(entries, Listing) else Listed(entries)
