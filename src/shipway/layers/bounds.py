"""What one layer has taken of its limits, counted while it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shipway.errors import TooLarge
from shipway.layers.compression import ByteSource
from shipway.limits import Limits
from shipway.trees.entry import Entry
from shipway.trees.listing import Listing

FREE = 1 << 30
"""Bytes that a layer may inflate to whatever its own size."""
_ZEROS = bytes(1 << 20)


class Bounds:
    """Counts for one layer; each method raises `TooLarge`, naming `where`, once a limit is passed."""

    def __init__(self, limits: Limits, blob_size: int, where: str) -> None:
        """Hold a blob of `blob_size` bytes to `limits`."""
        self._limits = limits
        self._where = where
        self._most_data = FREE + limits.ratio * blob_size
        self._entries = self._size = self._data = self._inflated = 0

    def count(self, entry: Entry) -> None:
        """Take one entry more, with what it says its size is."""
        self._count(1, entry.size)

    def count_table(self, entries: Listing) -> None:
        """Take all entries of a table of contents, and what their chunks are said to inflate to."""
        self._count(len(entries), entries.size)
        self.count_data(entries.data)

    def counted(self, table: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries of a table of contents, each taken as `count_table` takes all."""
        for entry in table:
            self.count(entry)
            self.count_data(entry.size - sum(chunk.size for chunk in entry.chunks if chunk.zeros))
            yield entry

    def _count(self, entries: int, size: int) -> None:
        self._entries += entries
        self._size += size
        if self._size > self._limits.size:
            raise self._too_large(f"its files claim more than the {self._limits.size} bytes allowed", "size")
        if self._entries > self._limits.entries:
            raise self._too_large(f"has more than the {self._limits.entries} entries allowed", "entries")

    def count_data(self, size: int) -> None:
        """Take `size` bytes more that are not zeros."""
        self._data += size
        if self._data > self._most_data:
            raise self._too_large(f"inflates to more than {self._limits.ratio} times its size", "ratio")

    def count_inflated(self, data: memoryview) -> None:
        """Take more bytes of the archive."""
        self._inflated += len(data)
        if self._inflated > self._limits.size:
            raise self._too_large(f"inflates to more than the {self._limits.size} bytes allowed", "size")
        if len(data) != len(_ZEROS) or data != _ZEROS:
            self.count_data(len(data))

    def _too_large(self, what: str, limit: str) -> TooLarge:
        return TooLarge(what, where=self._where, todo=f"raise the limit `{limit}` if you trust it")


class BoundedSource:
    """A source of bytes that are counted on their way."""

    def __init__(self, source: ByteSource, bounds: Bounds) -> None:
        """Pass on what `source` gives."""
        self._source = source
        self._bounds = bounds

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer`; see `ByteSource`."""
        size = self._source.readinto(buffer)
        self._bounds.count_inflated(buffer[:size])
        return size
