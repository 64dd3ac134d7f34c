"""A remote layer with a table of contents: its entries for one request, its files by ranges.

What is here of its contents (`supply`) is taken from there; what turns out to be damaged there is fetched.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from itertools import accumulate, tee
from typing import IO, BinaryIO, Generic, NamedTuple, TypeVar

import zstandard

from shipway import oci
from shipway.errors import Corrupt, Truncated, Unavailable
from shipway.layers.bounds import Bounds
from shipway.layers.contents import ChunkReader, Contents
from shipway.layers.formats import Stored
from shipway.layers.toc import TocLocation
from shipway.limits import Limits
from shipway.local.kept import Kept, Pack
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource, Elsewhere, judged, until_right
from shipway.transfer.ahead import Job, run_ahead
from shipway.transfer.delivery import WHOLE, Piece
from shipway.transfer.extents import Extents
from shipway.transfer.plain import Capture, PlainLayer
from shipway.transfer.ranges import PART, REQUEST_COST, Range, plan, runs, span
from shipway.transfer.remote_file import open_chunks
from shipway.transfer.supply import Supply, supply
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing
from shipway.trees.packed import picked

_ZEROS = bytes(1 << 20)
_WINDOW = 4096
"""Files whose contents are looked for at a time."""
_CONNECTIONS = 4
_LEARN = 2 * REQUEST_COST
"""If fewer bytes are wanted, blobs that were not looked into yet are not: that takes as long as to fetch them."""


class ChunkedLayer:
    """A layer of a remote image that has a table of contents. Thread-safe."""

    def __init__(
        self, remote: BlobSource, descriptor: Descriptor, contents: Contents, store: Store | None, limits: Limits
    ) -> None:
        """Read from `remote`, and what is in `store` from there; nothing is fetched yet."""
        self._limits = limits
        self._remote = remote
        self._store = store
        self._kept = store.kept if store is not None else None
        self._descriptor = descriptor
        self._contents = contents
        self._where = f"{remote.name}@{descriptor.digest}"
        self._entries: Listing | None = None

    @property
    def table(self) -> str:
        """The digest of its table of contents, which settles its entries and their contents."""
        return self._contents.digest

    def entries(self) -> Listing:
        """Return the layer's entries; its table of contents is fetched on the first call, and checked.

        Raises what the remote raises, and `Corrupt` and its kinds.
        """
        if self._entries is None:
            kept = None if self._is_here() else self._kept
            entries = read_table(self._remote, self._descriptor, self._contents, kept).entries
            Bounds(self._limits, self._descriptor.size, self._where).count_table(entries)
            self._entries = entries
        return self._entries

    def jobs(
        self, entries: Collection[Entry], numbers: Sequence[int], pack: Pack | None = None
    ) -> Iterator[Job[Piece]]:
        """Yield what reads the contents of those of `entries` with these numbers, one job for each range to fetch.

        Every chunk is checked against its digest before it is delivered, and every file's whole
        content before its last piece is. What is fetched goes to `pack`. Files much of which is here are read by a
        job of their own, which fetches only the rest.
        """
        store = self._store
        if self._is_here():
            store, pack = None, None  # there is no reason to keep what is here
        here, extents = array("I"), Extents()
        sizes = accumulate(chunk.length for entry in picked(entries, numbers) for chunk in entry.chunks)
        learning = store is not None and any(size >= _LEARN for size in sizes)
        for window, files in _windows(entries, numbers):
            with self._supply(files, learning=learning) if store is not None else nullcontext() as found:
                for number, entry in zip(window, files, strict=True):
                    if found is not None and _is_worth(entry, found):
                        here.append(number)
                    else:
                        extents.add(number, entry)
        if here:
            yield partial(self._read_here, entries, here, pack)
        for group in extents.passes():
            for one in plan(group.extents(), self._descriptor.size) or [Range(0, 0)]:
                yield partial(self._read, one, entries, group.take(one.end), pack)

    def read_coarse(
        self,
        entries: Collection[Entry],
        files: Sequence[tuple[int, str]],
        make_spool: Callable[[], IO[bytes]],
    ) -> Generator[Piece, None, None]:
        """Yield files with chunks that are too large to be held, for which the layer is read from its beginning.

        `files` are the numbers of those of `entries`, and their paths here.
        """
        paths = {path for _, path in files}
        plain = PlainLayer(self._remote, self._descriptor, self._limits)
        with make_spool() as spool:
            capture = Capture(spool)
            found = until_right(partial(plain.scan, capture, wanted=lambda _, path: path in paths))
            for entry, (_, path) in zip(picked(entries, [number for number, _ in files]), files, strict=True):
                place = found.place(path, entry.digest)
                self._check(found.entry(place).digest, entry)
                yield from capture.pieces(entry, place)

    def open_file(self, entry: Entry) -> BinaryIO:
        """Return the content of a file as a seekable file, which fetches the chunks that are read and not here."""
        stack = ExitStack()
        found = None if self._is_here() else stack.enter_context(self._supply([entry], learning=False))

        def done() -> None:
            with suppress(Unavailable):  # a store that was closed meanwhile holds nothing any more
                stack.close()

        return open_chunks(entry, partial(self._read_chunks, entry, found), done)

    def _is_here(self) -> bool:
        """Whether all of the blob is in the store, from where `remote` takes it then."""
        return self._store is not None and self._store.blobs.get(self._descriptor.digest) is not None

    @contextmanager
    def _supply(self, entries: Sequence[Entry], *, learning: bool) -> Iterator[Supply | None]:
        if self._store is None:
            yield None
            return
        with supply(self._store, entries, self._contents, learning=learning) as found:
            yield found

    def _read_chunks(self, entry: Entry, found: Supply | None, chunks: Sequence[Chunk]) -> Generator[bytes, None, None]:
        """Yield the checked contents of chunks of a file; those that follow one another are one range."""
        with ExitStack() as stack:
            pack = None
            if found is not None:
                found.look_again(chunks)
                pack = stack.enter_context(found.keeping())
            if found is None or not any(found.has(chunk, entry) for chunk in chunks):
                yield from self._fetch(entry.path, chunks, pack)
            else:
                yield from self._take(entry, chunks, found, pack)

    def _take(
        self, entry: Entry, chunks: Sequence[Chunk], found: Supply, pack: Pack | None
    ) -> Generator[bytes, None, None]:
        """Yield chunks of a file: those that are here, and ranges over several connections for the others.

        What turns out to be damaged here, or gone, is fetched by itself.
        """
        jobs = [
            partial(self._fetch, entry.path, run, pack)
            for run in runs(chunk for chunk in chunks if not found.has(chunk, entry))
        ]
        with closing(run_ahead(jobs, len, workers=_CONNECTIONS, budget=PART)) as fetched:
            for chunk in chunks:
                if not found.has(chunk, entry):
                    yield next(fetched)
                    continue
                content = found.content(chunk, entry)
                if content is not None:
                    yield content
                else:
                    yield from self._fetch(entry.path, [chunk], pack)

    def _fetch(self, path: str, chunks: Sequence[Chunk], pack: Pack | None) -> Generator[bytes, None, None]:
        """Fetch one range, from the first to the last of chunks, and yield these."""
        return self._fetch_range(span(chunks), [(path, chunk) for chunk in chunks], pack)

    def _fetch_range(
        self, wanted: Range, chunks: Iterable[tuple[str, Chunk]], pack: Pack | None
    ) -> Generator[bytes, None, None]:
        """Fetch one range and yield the chunks in it, of files by their paths.

        From the first that is not right on it is fetched anew, from another place, if there is one.
        """
        left = iter(chunks)
        start, one = wanted.start, next(left, None)
        while one is not None:
            try:
                with self._remote.read_blob(self._descriptor, start, wanted.end - start) as pieces:
                    reader = ChunkReader(self._contents)
                    stream = Stream(iter(pieces), start, self._where)
                    while one is not None:
                        path, chunk = one
                        content = self._decode(chunk, path, reader, stream, pack)
                        one = next(left, None)
                        yield content
                        start = one[1].offset if one is not None else wanted.end
            except Elsewhere:
                continue

    def _read_here(
        self, entries: Collection[Entry], numbers: Sequence[int], pack: Pack | None
    ) -> Generator[Piece, None, None]:
        """Yield files of which much is here."""
        for _, files in _windows(entries, numbers):
            assert self._store is not None  # where else would they be
            with supply(self._store, files, self._contents, learning=False) as found:
                for entry in files:
                    chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
                    with closing(self._take(entry, chunks, found, pack)) as plain:
                        yield from self._read_file(entry, plain)

    def _read(
        self, wanted: Range, entries: Collection[Entry], numbers: Sequence[int], pack: Pack | None
    ) -> Generator[Piece, None, None]:
        """Fetch one range and yield the files in it."""
        files, ahead = tee(picked(entries, numbers))
        chunks = ((entry.path, chunk) for entry in ahead for chunk in entry.chunks if not chunk.zeros)
        with closing(self._fetch_range(wanted, chunks, pack)) as plain:
            for entry in files:
                yield from self._read_file(entry, plain)

    def _read_file(self, entry: Entry, plain: Iterator[bytes]) -> Iterator[Piece]:
        """Yield a file whose chunks, but for holes, `plain` is."""
        chunks = entry.chunks
        contents = (chunk.size if chunk.zeros else next(plain) for chunk in chunks)
        if len(chunks) == 1 and chunks[0].digest == entry.digest:
            yield Piece(entry, next(contents), last=True)
            return
        if entry.size <= WHOLE and not any(chunk.zeros for chunk in chunks):
            data = b"".join(content for content in contents if not isinstance(content, int))
            self._check(oci.sha256(data), entry)
            yield Piece(entry, data, last=True)
            return
        whole = hashlib.sha256()
        for number, content in enumerate(contents, 1):
            if isinstance(content, int):
                for done in range(0, content, len(_ZEROS)):
                    whole.update(_ZEROS[: content - done])
            else:
                whole.update(content)
            if number == len(chunks):
                self._check(f"sha256:{whole.hexdigest()}", entry)
            yield Piece(entry, content, last=number == len(chunks))

    def _decode(self, chunk: Chunk, path: str, reader: ChunkReader, stream: Stream, pack: Pack | None) -> bytes:
        content = reader.content(chunk, stream.take, f"{self._where}, {path!r}")
        if pack is not None:
            keep(pack, self._contents, chunk, reader, content)
        return content

    def _check(self, digest: str, entry: Entry) -> None:
        if entry.digest:
            oci.check_match(digest, entry.digest, f"{self._where}, {entry.path!r}")


def keep(pack: Pack, contents: Contents, chunk: Chunk, reader: ChunkReader, content: bytes) -> None:
    """Keep a chunk, whose `content` `reader` has just taken; what is kept is zstd, whatever form it came in.

    Of one that has no digest, a part of a file that goes on in the next span, it is all of the span that is kept.
    """
    if chunk.digest:
        is_zstd = isinstance(contents, TocLocation)
        pack.add(chunk.digest, reader.data if is_zstd else zstandard.ZstdCompressor(level=1).compress(content))
    elif (span := contents.span(chunk)) is not None and span.digest not in pack:
        pack.add(span.digest, zstandard.ZstdCompressor(level=1).compress(reader.plain))


E = TypeVar("E", bound=Iterable[Entry])


class ReadTable(NamedTuple, Generic[E]):
    """A table of contents as it was read: its entries, itself as it is stored, how many bytes were fetched for it."""

    entries: E
    data: Buffer
    fetched: int


def read_table(remote: BlobSource, descriptor: Descriptor, contents: Contents, kept: Kept | None) -> ReadTable[Listing]:
    """Return a layer's table of contents, checked, from `kept` if it is there.

    Raises what the remote raises, and `Corrupt` and its kinds.
    """
    return _read_table(remote, descriptor, contents, kept, contents.parse)


def stream_table(
    remote: BlobSource, descriptor: Descriptor, contents: Stored, kept: Kept
) -> ReadTable[Iterable[Entry]]:
    """Return what `read_table` does, with entries that are worked out, and checked, each time they are gone through."""
    return _read_table(remote, descriptor, contents, kept, contents.entries)


def _read_table(
    remote: BlobSource, descriptor: Descriptor, contents: Contents, kept: Kept | None, parse: Callable[[Buffer, str], E]
) -> ReadTable[E]:
    where = f"{remote.name}@{descriptor.digest}"
    data: Buffer = kept.get(contents.digest) if kept is not None and contents.is_stored else b""
    if data:
        with suppress(Corrupt):
            return ReadTable(parse(data, where), data, 0)
    fetched = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal fetched
        with remote.read_blob(descriptor, offset, length) as pieces:
            found = b"".join(pieces)
        fetched += len(found)
        return found

    def read_all() -> tuple[Buffer, E]:
        with judged(remote, descriptor):
            found = contents.fetch(read, where)
            return found, parse(found, where)

    data, entries = until_right(read_all)
    if kept is not None and contents.is_stored:
        kept.put(contents.digest, data)
    return ReadTable(entries, data, fetched)


def _windows(entries: Collection[Entry], numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[Entry]]]:
    """Yield the entries with these numbers, so many at a time that what is looked up for them takes little memory."""
    for start in range(0, len(numbers), _WINDOW):
        window = numbers[start : start + _WINDOW]
        yield window, list(picked(entries, window))


def _is_worth(entry: Entry, found: Supply) -> bool:
    """Whether so much of a file is here that the rest had better be fetched by itself."""
    chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
    lacking = [chunk for chunk in chunks if not found.has(chunk, entry)]
    if not lacking:
        return bool(chunks)
    return (
        len(lacking) < len(chunks)
        and sum(span(run).length + REQUEST_COST for run in runs(lacking)) < span(chunks).length
    )


class Stream:
    """Bytes of a blob from `start` on, that are taken by their places in the blob, forwards."""

    def __init__(self, pieces: Iterator[Buffer], start: int, where: str) -> None:
        """Take them from `pieces`; `where` names the blob in errors."""
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._start = start
        """Where in the blob the present piece begins."""
        self._before = b""
        """The last byte before it: where two parts of a blob share one, it is asked for twice."""
        self._where = where

    def take(self, offset: int, length: int) -> Buffer:
        """Return `length` bytes from `offset` on; valid until the next call."""
        while offset >= self._start + len(self._piece):
            if not length:
                return b""
            self._next()
        if offset == self._start - 1 and self._before and length > 1:
            return self._before + bytes(self.take(self._start, length - 1))
        begin = offset - self._start
        if begin < 0:
            raise Corrupt("its table of contents has chunks that overlap", where=self._where)
        if begin + length <= len(self._piece):
            return self._piece[begin : begin + length]
        data = bytearray(self._piece[begin:])
        while len(data) < length:
            self._next()
            data += self._piece[: length - len(data)]
        return data

    def _next(self) -> None:
        self._start += len(self._piece)
        self._before = bytes(self._piece[-1:])
        piece = next(self._pieces, None)
        if piece is None:
            raise Truncated("the range ended early", where=self._where)
        self._piece = memoryview(piece)
