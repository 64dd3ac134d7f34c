"""Contents that need not be fetched: those that the store's snapshots have, and those that were fetched before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from shipway import oci
from shipway.errors import ShipwayError
from shipway.local.contents import Place, known_contents
from shipway.local.kept import Piece
from shipway.local.store import Store
from shipway.transfer.chunked import decode_kept
from shipway.trees.entry import Chunk, Entry, LocalTree


class Supply:
    """What is here of the contents of a layer. For one thread at a time."""

    def __init__(
        self, store: Store, places: Mapping[str, Place], pieces: Mapping[str, Piece], stack: ExitStack
    ) -> None:
        """Take contents from `places` and `pieces`; `stack` closes what is opened for that."""
        self._store = store
        self._places = places
        self._pieces = pieces
        self._stack = stack
        self._trees: dict[str, LocalTree] = {}
        self._last: tuple[str, str] | None = None
        self._fd = -1
        stack.callback(self._close)

    def has(self, chunk: Chunk, entry: Entry) -> bool:
        """Whether a chunk of a file is likely to be here."""
        return chunk.digest in self._places or chunk.digest in self._pieces or entry.digest in self._places

    def content(self, chunk: Chunk, entry: Entry) -> bytes | None:
        """Return the content of a chunk, checked against its digest; None if it cannot be had here."""
        whole, place = self._places.get(entry.digest), self._places.get(chunk.digest)
        for found, start in ((place, 0), (whole, chunk.start)):
            if found is not None:
                data = self._read(found, start, chunk.size)
                if len(data) == chunk.size and oci.sha256(data) == chunk.digest:
                    return data
        piece = self._pieces.get(chunk.digest)
        return decode_kept(self._store.kept.read(piece), chunk) if piece is not None else None

    def _read(self, place: Place, start: int, size: int) -> bytes:
        with suppress(ShipwayError, OSError):
            if self._last != (place.record, place.path):
                self._close()
                self._fd = self._tree(place.record).open(place.path)
                self._last = place.record, place.path
            return os.pread(self._fd, size, place.start + start)
        return b""

    def _tree(self, record_id: str) -> LocalTree:
        tree = self._trees.get(record_id)
        if tree is None:
            snapshot = self._store.records.get(record_id).snapshot
            tree = self._stack.enter_context(self._store.driver.files(snapshot or ""))
            self._trees[record_id] = tree
        return tree

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._last = -1, None


@contextmanager
def supply(store: Store, entries: Sequence[Entry]) -> Iterator[Supply]:
    """Yield what is here of the contents of `entries`; the layers that have some are held meanwhile."""
    chunks = {chunk.digest for entry in entries for chunk in entry.chunks if not chunk.zeros}
    files = {entry.digest for entry in entries if entry.digest and len(entry.chunks) > 1}
    with known_contents(store, chunks | files) as places, ExitStack() as stack:
        yield Supply(store, places, store.kept.find(chunks - places.keys()), stack)
