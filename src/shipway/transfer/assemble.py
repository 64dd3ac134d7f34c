"""A layer that is put together of contents that are here and of ranges of its blob, instead of being fetched whole.

The archive comes out byte by byte as it is in the blob, so that its DiffID is checked as ever; the blob itself
does not. It is worth it if a good share of the layer is here, which its table of contents tells: that costs a
request and a hundredth of the blob, and is only asked if the store has contents at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import chain

from shipway import oci
from shipway.errors import Corrupt
from shipway.layers.agreement import Told
from shipway.layers.archive import (
    Followed,
    Member,
    archive,
    makes_own_headers,
    own_members,
    split_location,
    split_members,
    with_tails,
)
from shipway.layers.bounds import Bounds
from shipway.layers.contents import ChunkReader, is_coarse
from shipway.layers.estargz import Stargz, archive_end
from shipway.layers.estargz_table import BEGIN
from shipway.layers.formats import Stored, contents_of, form_of, tells_times
from shipway.layers.toc import TocLocation
from shipway.local.contents import Noted, has_contents
from shipway.local.kept import Pack
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource
from shipway.transfer.ahead import Job, run_ahead
from shipway.transfer.chunked import ReadTable, Stream, keep, stream_table
from shipway.transfer.ranges import PART, REQUEST_COST, runs, span
from shipway.transfer.stock import Stock
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.packed import PackedEntries

LEAST = 2 * REQUEST_COST
"""Blobs of fewer bytes are fetched whole: looking costs as much."""
SHARE = 2
"""A layer is put together if no more than one byte in so many of its blob has to be fetched."""
WORKERS = 4
_ZEROS = bytes(1 << 20)


class _Coarse(Exception):
    """There are chunks that are too large to be held."""


def _fine(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if is_coarse(entry):
            raise _Coarse
        yield entry


class Assembly:
    """A layer that can be put together."""

    def __init__(
        self,
        store: Store,
        remote: BlobSource,
        descriptor: Descriptor,
        contents: Stored,
        *,
        read: ReadTable[Iterable[Entry]],
        stack: ExitStack,
    ) -> None:
        """Plan what to fetch; nothing is fetched yet. What is taken from the store is held until `stack` is closed.

        Raises `Corrupt` and its kinds for a table that makes no sense, or `TooLarge`; and `_Coarse`.
        """
        self._where = f"{remote.name}@{descriptor.digest}"
        entries = PackedEntries(_fine(Bounds(store.limits, descriptor.size, self._where).counted(read.entries)))
        self.told = Told(entries, times=tells_times(descriptor, contents))
        """What the table says, once the archive was read to its end."""
        self.noted = Noted()
        """Where the contents will be, as far as the archive was read."""
        self.tables = read.fetched
        """Bytes of tables that were fetched."""
        self.here = 0
        """Bytes of content that were taken from the store so far."""
        self._store = store
        self._remote = remote
        self._descriptor = descriptor
        self._contents = contents
        self._table = read.data
        self._own = makes_own_headers(descriptor)
        self._stock = Stock(store, contents, self._place, stack)
        self.supply = self._stock.supply
        self._stock.look(self._files(entries))
        self.total = sum(span(chunks).length for chunks in runs(self._stock.missing))
        """The bytes that are to be fetched by ranges."""
        self._members: Iterator[Member] = iter(())

    def _files(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """Return what the archive is made of: entries, or files with what follows them."""
        if self._own or not isinstance(self._contents, Stargz):
            return entries
        return with_tails(entries, self._descriptor.size - len(self._table), self._where)

    def prepare(self) -> None:
        """Find out what the archive consists of, for which a tar-split may have to be fetched.

        Raises what the remote raises, and `Corrupt` and its kinds for tables that make no sense.
        """
        self._members = self._list(self._stock.follow(self._files(self._noting())))

    def _noting(self) -> Iterator[Entry]:
        for entry in self.told:
            self.noted.add(entry)
            yield entry

    def _list(self, files: Iterable[Entry]) -> Iterator[Member]:
        if isinstance(self._contents, Stargz):
            end = archive_end(self._table, self._where)
            if self._own:
                return own_members(files, BEGIN, end)
            return chain(((b"", file) for file in files), ((piece, None) for piece in end))
        split = split_location(self._descriptor)
        if self._own or split is None:
            return own_members(files)
        with self._remote.read_blob(self._descriptor, split.offset, split.length) as pieces:
            data = b"".join(pieces)
        promised = self._contents.split_digest(self._table, self._where)
        if promised:
            oci.check_match(oci.sha256(data), promised, f"{self._where}, tar-split")
        self.tables += len(data)
        return split_members(data, split, files, self._where)

    def archive(self, stack: ExitStack, came: Callable[[int], None]) -> Iterator[Buffer]:
        """Return the archive's bytes; `came` hears of bytes that were fetched, from several threads.

        What is fetched is kept until it is known to have become a layer: then call `Pack.discard`.
        """
        self.pack = stack.enter_context(self._store.kept.writing())
        jobs: Iterable[Job[tuple[Chunk, bytes]]] = (
            partial(self._read, chunks, came) for chunks in runs(self._stock.missing)
        )
        fetched = stack.enter_context(closing(run_ahead(jobs, _weigh, workers=WORKERS, budget=PART)))
        return archive(self._members, partial(self._content, fetched, came))

    pack: Pack

    def _content(
        self, fetched: Iterator[tuple[Chunk, bytes]], came: Callable[[int], None], entry: Entry
    ) -> Iterator[Buffer]:
        for chunk in entry.chunks:
            if chunk.zeros:
                for done in range(0, chunk.size, len(_ZEROS)):
                    yield _ZEROS[: chunk.size - done]
                continue
            if self._stock.turn_to(chunk, entry):
                content = self._take(chunk, entry)
                if content is None:  # damaged, or gone
                    for _, content in self._read([chunk], came):
                        yield content
                else:
                    self.here += len(content)
                    yield content
            else:
                next_chunk, content = next(fetched, (None, b""))
                if next_chunk != chunk:
                    raise Corrupt("its tables have different orders", where=self._where)
                yield content
            if isinstance(chunk, Followed) and self.supply.may_have(entry):
                self.supply.content(chunk, entry)  # a file is cloned only if all of it was checked

    def _take(self, chunk: Chunk, entry: Entry) -> bytes | None:
        if not isinstance(chunk, Followed):
            return self.supply.content(chunk, entry)
        data = self._store.kept.read(self._stock.piece) if self._stock.piece is not None else b""
        with suppress(Corrupt):
            return self._decode(ChunkReader(self._contents), chunk, lambda _offset, _length: data)
        return None

    def _read(self, chunks: Sequence[Chunk], came: Callable[[int], None]) -> Generator[tuple[Chunk, bytes], None, None]:
        """Fetch one range and yield the chunks in it."""
        wanted = span(chunks)
        with self._remote.read_blob(self._descriptor, wanted.start, wanted.length) as pieces:
            reader, stream = ChunkReader(self._contents), Stream(iter(pieces), wanted.start, self._where)
            at = wanted.start
            for chunk in chunks:
                content = self._decode(reader, chunk, stream.take)
                if isinstance(chunk, Followed):
                    self.pack.add(self._place(chunk), reader.data)
                else:
                    keep(self.pack, self._contents, chunk, reader, content)
                came(chunk.offset + chunk.length - at)
                at = chunk.offset + chunk.length
                yield chunk, content

    def _decode(self, reader: ChunkReader, chunk: Chunk, take: Callable[[int, int], Buffer]) -> bytes:
        return reader.content(chunk, take, self._where, chunk.until if isinstance(chunk, Followed) else 0)

    def _place(self, chunk: Chunk) -> str:
        """Return a digest for what is at a chunk's place in the blob, whatever it is: nobody promised that."""
        return oci.sha256(f"{self._descriptor.digest} {chunk.offset} {chunk.length}".encode())


def plan_assembly(store: Store, remote: BlobSource, descriptor: Descriptor, stack: ExitStack) -> Assembly | str:
    """Return how to put a layer together; if it had better be fetched whole, why, in a line for people.

    Raises what the remote raises, and `Corrupt` and its kinds for tables that make no sense.
    """
    contents = contents_of(descriptor)
    why = _why_whole(store, descriptor, contents)
    if contents is None or why:
        return why
    read = stream_table(remote, descriptor, contents, store.kept)
    try:
        assembly = Assembly(store, remote, descriptor, contents, read=read, stack=stack)
    except _Coarse:
        return "files in it are chunks that are too large to be taken one by one"
    if assembly.total * SHARE > descriptor.size:
        return "little of it was here"
    assembly.prepare()
    return assembly


def _why_whole(store: Store, descriptor: Descriptor, contents: Stored | None) -> str:
    """Return why a layer had better be fetched whole, as far as that is known without its table."""
    if contents is None:
        return f"it is {form_of(descriptor)}, without a table of contents that says what is in it"
    if isinstance(contents, TocLocation) and not (makes_own_headers(descriptor) or split_location(descriptor)):
        return "its table of contents does not say how to make its headers again"
    if descriptor.size < LEAST:
        return "to look what of it is here would have cost as much"
    if not has_contents(store) and not store.kept.get(contents.digest):
        return "of no layer that was here is it known what is in it"
    return ""


def _weigh(item: tuple[Chunk, bytes]) -> int:
    return len(item[1])
