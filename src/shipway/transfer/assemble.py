"""A layer that is put together of contents that are here and of ranges of its blob, instead of being fetched whole.

The archive comes out byte by byte as it is in the blob, so that its DiffID is checked as ever; the blob itself
does not. It is worth it if a good share of the layer is here, which its table of contents tells: that costs a
request and a hundredth of the blob, and is only asked if the store has contents at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial

from shipway.errors import Corrupt
from shipway.layers.archive import (
    Member,
    archive,
    check_split,
    makes_own_headers,
    own_members,
    split_location,
    split_members,
)
from shipway.layers.bounds import Bounds
from shipway.layers.toc import decode_chunk, toc_location
from shipway.local.contents import has_contents
from shipway.local.kept import Pack
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource
from shipway.transfer.ahead import Job, run_ahead
from shipway.transfer.chunked import Stream, read_table
from shipway.transfer.ranges import PART, REQUEST_COST, runs, span
from shipway.transfer.supply import Supply, supply
from shipway.trees.entry import Buffer, Chunk, Entry

LEAST = 2 * REQUEST_COST
"""Blobs of fewer bytes are fetched whole: looking costs as much."""
SHARE = 2
"""A layer is put together if no more than one byte in so many of its blob has to be fetched."""
WORKERS = 4
_ZEROS = bytes(1 << 20)


class Assembly:
    """A layer that can be put together."""

    def __init__(
        self,
        store: Store,
        remote: BlobSource,
        descriptor: Descriptor,
        entries: Sequence[Entry],
        found: Supply,
    ) -> None:
        """Plan what to fetch; nothing is fetched yet."""
        self.entries = entries
        self.tables = 0
        """Bytes of tables that were fetched."""
        self.here = 0
        """Bytes of content that were taken from the store so far."""
        self.members: Iterator[Member] = iter(())
        self._store = store
        self._remote = remote
        self._descriptor = descriptor
        self._where = f"{remote.name}@{descriptor.digest}"
        self.supply = found
        self._ranges = runs(
            chunk for entry in entries for chunk in entry.chunks if not chunk.zeros and not found.has(chunk, entry)
        )

    @property
    def total(self) -> int:
        """The bytes that are to be fetched by ranges."""
        return sum(span(chunks).length for chunks in self._ranges)

    def archive(self, stack: ExitStack, came: Callable[[int], None]) -> Iterator[Buffer]:
        """Return the archive's bytes; `came` hears of bytes that were fetched, from several threads.

        What is fetched is kept until it is known to have become a layer: then call `Pack.discard`.
        """
        self.pack = stack.enter_context(self._store.kept.writing())
        jobs: list[Job[tuple[Chunk, bytes]]] = [partial(self._read, chunks, came) for chunks in self._ranges]
        fetched = stack.enter_context(closing(run_ahead(jobs, _weigh, workers=WORKERS, budget=PART)))
        return archive(self.members, partial(self._contents, fetched, came))

    pack: Pack

    def _contents(
        self, fetched: Iterator[tuple[Chunk, bytes]], came: Callable[[int], None], entry: Entry
    ) -> Iterator[Buffer]:
        for chunk in entry.chunks:
            if chunk.zeros:
                for done in range(0, chunk.size, len(_ZEROS)):
                    yield _ZEROS[: chunk.size - done]
            elif self.supply.has(chunk, entry):
                content = self.supply.content(chunk, entry)
                if content is None:  # damaged, or gone
                    yield self._fetch(chunk, came)
                else:
                    self.here += len(content)
                    yield content
            else:
                next_chunk, content = next(fetched, (None, b""))
                if next_chunk is not chunk:
                    raise Corrupt("its tables have different orders", where=self._where)
                yield content

    def _read(self, chunks: Sequence[Chunk], came: Callable[[int], None]) -> Generator[tuple[Chunk, bytes], None, None]:
        """Fetch one range and yield the chunks in it."""
        wanted = span(chunks)
        with self._remote.read_blob(self._descriptor, wanted.start, wanted.length) as pieces:
            stream = Stream(iter(pieces), wanted.start, self._where)
            at = wanted.start
            for chunk in chunks:
                data = stream.take(chunk.offset, chunk.length)
                content = decode_chunk(data, chunk, self._where)
                self.pack.add(chunk.digest, data)
                came(chunk.offset + chunk.length - at)
                at = chunk.offset + chunk.length
                yield chunk, content

    def _fetch(self, chunk: Chunk, came: Callable[[int], None]) -> bytes:
        with self._remote.read_blob(self._descriptor, chunk.offset, chunk.length) as pieces:
            data = b"".join(pieces)
            came(len(data))
            return decode_chunk(data, chunk, self._where)


def plan_assembly(store: Store, remote: BlobSource, descriptor: Descriptor, stack: ExitStack) -> Assembly | None:
    """Return how to put a layer together, None if it had better be fetched whole.

    Raises what the remote raises, and `Corrupt` and its kinds for tables that make no sense.
    """
    location = toc_location(descriptor)
    split = split_location(descriptor)
    if descriptor.size < LEAST or location is None or not (makes_own_headers(descriptor) or split):
        return None
    if not has_contents(store) and not store.kept.get(location.digest):
        return None
    where = f"{remote.name}@{descriptor.digest}"
    listing, table, fetched = read_table(remote, descriptor, location, store.kept)
    Bounds(store.limits, descriptor.size, where).count_table(listing)
    entries = list(listing)
    found = stack.enter_context(supply(store, entries))
    assembly = Assembly(store, remote, descriptor, entries, found)
    assembly.tables = fetched
    if assembly.total * SHARE > descriptor.size:
        return None
    if makes_own_headers(descriptor):
        assembly.members = own_members(entries)
    elif split is not None:
        with remote.read_blob(descriptor, split.offset, split.length) as pieces:
            data = b"".join(pieces)
            check_split(data, table, location, where)
        assembly.tables += len(data)
        assembly.members = split_members(data, split, entries, where)
    return assembly


def _weigh(item: tuple[Chunk, bytes]) -> int:
    return len(item[1])
