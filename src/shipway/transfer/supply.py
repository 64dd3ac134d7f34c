"""Contents that need not be fetched: those that the store's snapshots have, and those that were fetched before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from msgspec.structs import replace

from shipway import oci
from shipway.errors import Corrupt, ShipwayError
from shipway.layers.contents import Contents
from shipway.layers.toc import decode_chunk
from shipway.local.contents import Place, known_contents
from shipway.local.kept import Pack, Piece
from shipway.local.store import Store
from shipway.trees.entry import Chunk, Entry, LocalTree

CLONED = 64 << 10
"""Files of at least so many bytes are cloned where the file system can; smaller ones are written sooner."""


class Supply:
    """What is here of the contents of a layer: chunks for one thread, clones of whole files for another."""

    def __init__(
        self,
        store: Store,
        contents: Contents,
        *,
        places: Mapping[str, Place],
        pieces: Mapping[str, Piece],
        files: Iterable[Entry],
        stack: ExitStack,
    ) -> None:
        """Take contents of chunks of the table `contents` from `places` and `pieces`; of `files` all is there.

        `stack` closes what is opened for that.
        """
        self._contents = contents
        self._plain = "", b""
        """The digest of the span that was looked into last, and what it holds."""
        self._files = {entry.path for entry in files}
        self._store = store
        self._places = places
        self._pieces = pieces
        self._stack = stack
        self._clonable = store.can_clone
        self._whole: dict[str, tuple[Place, int]] = {}
        """By path, the files whose contents came from one that is here, and how many bytes of them so far."""
        self._trees: dict[str, LocalTree] = {}
        self._last: tuple[str, str] | None = None
        self._fd = -1
        stack.callback(self._close)

    def has(self, chunk: Chunk, entry: Entry) -> bool:
        """Whether a chunk of a file, no hole, is likely to be here."""
        return (
            chunk.digest in self._places
            or chunk.digest in self._pieces
            or entry.digest in self._places
            or ((span := self._contents.span(chunk)) is not None and span.digest in self._pieces)
        )

    def keeping(self) -> Pack:
        """Return what keeps chunks that are fetched; use it as a context manager."""
        return self._store.kept.writing()

    def turn_to(self, places: Mapping[str, Place], pieces: Mapping[str, Piece]) -> None:
        """Take contents from other places from now on."""
        self._places, self._pieces = places, pieces

    def may_clone(self, entry: Entry) -> None:
        """Take notice that all of a file is in one place here."""
        self._files.add(entry.path)

    def look_again(self, chunks: Iterable[Chunk]) -> None:
        """Take notice of chunks that were fetched meanwhile."""
        self._pieces = {**self._pieces, **self._store.kept.find(_digests(chunks, self._contents))}

    def content(self, chunk: Chunk, entry: Entry) -> bytes | None:
        """Return the content of a chunk, checked against its digest; None if it cannot be had here."""
        whole, place = self._places.get(entry.digest), self._places.get(chunk.digest)
        for found, start in ((whole, chunk.start), (place, 0)):
            if found is not None:
                data = self._read(found, start, chunk.size)
                if len(data) == chunk.size and oci.sha256(data) == chunk.digest:
                    if found is whole and entry.size >= CLONED:
                        self._whole[entry.path] = found, self._whole.get(entry.path, (found, 0))[1] + len(data)
                    return data
        piece = self._pieces.get(chunk.digest)
        if piece is not None:
            return _decode_kept(self._store.kept.read(piece), chunk)
        return self._content_of_span(chunk)

    def _content_of_span(self, chunk: Chunk) -> bytes | None:
        """Return the content of a chunk out of its span, if that was kept; None if not."""
        span = self._contents.span(chunk)
        piece = self._pieces.get(span.digest) if span is not None else None
        if span is None or piece is None:
            return None
        if self._plain[0] != span.digest:
            plain = _decode_kept(self._store.kept.read(piece), span)
            if plain is None:
                return None
            self._plain = span.digest, plain
        return self._plain[1][chunk.inner : chunk.inner + chunk.size]

    def may_have(self, entry: Entry) -> bool:
        """Whether a file may be cloned from one that is here; see `shipway.layers.unpack.Clones`."""
        return self._clonable and entry.size >= CLONED and entry.path in self._files

    def open(self, entry: Entry) -> int:
        """Return a descriptor of the file that is here, all of which has just been read and checked; only once."""
        self._files.discard(entry.path)
        place, checked = self._whole.pop(entry.path, (None, 0))
        if place is not None and checked == entry.size:
            with suppress(ShipwayError, OSError):
                with self._store.driver.files(self._snapshot(place.record)) as tree:
                    fd = tree.open(place.path)
                if os.fstat(fd).st_size == entry.size:
                    return fd
                os.close(fd)
        raise Corrupt("the file with its content that was here is no more", where=entry.path)

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
            tree = self._stack.enter_context(self._store.driver.files(self._snapshot(record_id)))
            self._trees[record_id] = tree
        return tree

    def _snapshot(self, record_id: str) -> str:
        return self._store.records.get(record_id).snapshot or ""

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._last = -1, None


@contextmanager
def supply(store: Store, entries: Sequence[Entry], contents: Contents, *, learning: bool = True) -> Iterator[Supply]:
    """Yield what is here of the contents of `entries`, which are of the table `contents`.

    Layers that have some are held meanwhile. Without `learning` blobs that were not looked into yet are not.
    """
    pieces = _digests((chunk for entry in entries for chunk in entry.chunks), contents)
    chunks = {chunk.digest for entry in entries for chunk in entry.chunks if chunk.digest}
    files = {entry.digest for entry in entries if entry.digest and len(entry.chunks) > 1}
    with known_contents(store, chunks | files, learning=learning) as places, ExitStack() as stack:
        whole = (entry for entry in entries if entry.size >= CLONED and _is_file(places.get(entry.digest), entry))
        kept = store.kept.find(pieces - places.keys())
        yield Supply(store, contents, places=places, pieces=kept, files=whole, stack=stack)


def _digests(chunks: Iterable[Chunk], contents: Contents) -> set[str]:
    """Return the digests by which chunks may have been kept: their own, and those of the spans that they are in."""
    found = set()
    for chunk in chunks:
        if chunk.digest:
            found.add(chunk.digest)
        span = contents.span(chunk)
        if span is not None:
            found.add(span.digest)
    return found


def _decode_kept(data: bytes, chunk: Chunk) -> bytes | None:
    """Return the content of a chunk from how it was kept; None if that is something else, or nothing."""
    with suppress(Corrupt):
        if data:
            return decode_chunk(data, replace(chunk, length=len(data), inner=0))
    return None


def _is_file(place: Place | None, entry: Entry) -> bool:
    """Whether a file's content is, as far as is known, that of a whole file that is here, and all of it is checked."""
    return place is not None and place.whole and not any(chunk.zeros for chunk in entry.chunks)
