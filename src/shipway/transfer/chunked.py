"""A remote layer with a table of contents: its entries for one request, its files by ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple, Self

import zstandard
from msgspec.structs import replace

from shipway import oci
from shipway.errors import Corrupt, Truncated
from shipway.layers.bounds import Bounds
from shipway.layers.contents import ChunkReader, Contents
from shipway.layers.toc import TocLocation, decode_chunk
from shipway.limits import Limits
from shipway.local.kept import Kept, Pack
from shipway.local.kept import Piece as KeptPiece
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource, Elsewhere, judged, until_right
from shipway.transfer.ahead import Job
from shipway.transfer.delivery import WHOLE, Piece
from shipway.transfer.ranges import Range, plan
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class _File:
    """A file to be read, and the bytes of the blob from its first chunk to its last."""

    entry: Entry
    extent: Range
    first: Range
    last: Range

    @classmethod
    def of(cls, entry: Entry) -> Self:
        pieces = [Range(chunk.offset, chunk.offset + chunk.length) for chunk in entry.chunks if not chunk.zeros]
        if not pieces:
            return cls(entry, Range(0, 0), Range(0, 0), Range(0, 0))
        return cls(entry, Range(pieces[0].start, pieces[-1].end), pieces[0], pieces[-1])


class ChunkedLayer:
    """A layer of a remote image that has a table of contents. Thread-safe."""

    def __init__(
        self, remote: BlobSource, descriptor: Descriptor, contents: Contents, kept: Kept | None, limits: Limits
    ) -> None:
        """Read from `remote`, and what was read before from `kept`; nothing is fetched yet."""
        self._limits = limits
        self._remote = remote
        self._kept = kept
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
            entries = read_table(self._remote, self._descriptor, self._contents, self._kept).entries
            Bounds(self._limits, self._descriptor.size, self._where).count_table(entries)
            self._entries = entries
        return self._entries

    def jobs(self, entries: Iterable[Entry], pack: Pack | None = None) -> list[Job[Piece]]:
        """Return what reads the contents of `entries`, one job for each range to fetch.

        Every chunk is checked against its digest before it is delivered, and every file's whole
        content before its last piece is. What is fetched goes to `pack`; files all of which is kept are not.
        """
        entries = list(entries)
        held = self._held(entries)
        here = [entry for entry in entries if _is_held(entry, held)]
        jobs: list[Job[Piece]] = [partial(self._read_held, here, held)] if here else []
        lacking = [entry for entry in entries if not _is_held(entry, held)] if here else entries
        for files in _passes(_File.of(entry) for entry in lacking):
            ranges = plan((file.extent for file in files), self._descriptor.size)
            rest = list(reversed(files))
            for one in ranges or [Range(0, 0)]:
                inside = []
                while rest and rest[-1].extent.end <= one.end:
                    inside.append(rest.pop().entry)
                jobs.append(partial(self._read, one, inside, pack))
        return jobs

    def _held(self, entries: Iterable[Entry]) -> Mapping[str, KeptPiece]:
        if self._kept is None:
            return {}
        return self._kept.find(chunk.digest for entry in entries for chunk in entry.chunks if chunk.digest)

    def read_chunks(self, path: str, chunks: Sequence[Chunk]) -> Generator[bytes, None, None]:
        """Yield the checked contents of chunks of the file `path`; those that follow one another are one range.

        None is fetched that was fetched before.
        """
        held = self._kept.find(chunk.digest for chunk in chunks if chunk.digest) if self._kept is not None else {}
        for is_held, run in groupby(chunks, lambda chunk: chunk.digest in held):
            some = list(run)
            yield from self._take_held(path, some, held) if is_held else self._fetch(path, some)

    def _take_held(self, path: str, chunks: Iterable[Chunk], held: Mapping[str, KeptPiece]) -> Iterator[bytes]:
        """Yield chunks that were fetched before; what turns out to be damaged, or gone, is fetched again."""
        assert self._kept is not None
        for chunk in chunks:
            content = decode_kept(self._kept.read(held[chunk.digest]), chunk)
            if content is not None:
                yield content
            else:
                yield from self._fetch(path, [chunk])

    def _fetch(self, path: str, chunks: Sequence[Chunk]) -> Iterator[bytes]:
        """Fetch one range, from the first to the last of chunks, and yield these."""
        wanted = Range(chunks[0].offset, chunks[-1].offset + chunks[-1].length)
        with ExitStack() as stack:
            pack = stack.enter_context(self._kept.writing()) if self._kept is not None else None
            yield from self._fetch_range(wanted, [(path, chunk) for chunk in chunks], pack)

    def _fetch_range(
        self, wanted: Range, chunks: Sequence[tuple[str, Chunk]], pack: Pack | None
    ) -> Generator[bytes, None, None]:
        """Fetch one range and yield the chunks in it, of files by their paths.

        From the first that is not right on it is fetched anew, from another place, if there is one.
        """
        done = 0
        while True:
            start = chunks[done][1].offset if done else wanted.start
            try:
                with self._remote.read_blob(self._descriptor, start, wanted.end - start) as pieces:
                    reader = ChunkReader(self._contents)
                    stream = Stream(iter(pieces), start, self._where)
                    for path, chunk in chunks[done:]:
                        content = self._decode(chunk, path, reader, stream, pack)
                        done += 1
                        yield content
            except Elsewhere:
                continue
            return

    def _read_held(self, entries: Sequence[Entry], held: Mapping[str, KeptPiece]) -> Generator[Piece, None, None]:
        """Yield files all of which was fetched before."""
        for entry in entries:
            chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
            yield from self._read_file(entry, self._take_held(entry.path, chunks, held))

    def _read(self, wanted: Range, entries: Sequence[Entry], pack: Pack | None) -> Generator[Piece, None, None]:
        """Fetch one range and yield the files in it."""
        chunks = [(entry.path, chunk) for entry in entries for chunk in entry.chunks if not chunk.zeros]
        with closing(self._fetch_range(wanted, chunks, pack)) as plain:
            for entry in entries:
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
        if pack is not None and chunk.digest:
            is_zstd = isinstance(self._contents, TocLocation)
            pack.add(chunk.digest, reader.data if is_zstd else zstandard.ZstdCompressor(level=1).compress(content))
        return content

    def _check(self, digest: str, entry: Entry) -> None:
        if entry.digest:
            oci.check_match(digest, entry.digest, f"{self._where}, {entry.path!r}")


class ReadTable(NamedTuple):
    """A table of contents as it was read: its entries, itself as it is stored, how many bytes were fetched for it."""

    entries: Listing
    data: bytes
    fetched: int


def read_table(remote: BlobSource, descriptor: Descriptor, contents: Contents, kept: Kept | None) -> ReadTable:
    """Return a layer's table of contents, checked, from `kept` if it is there.

    Raises what the remote raises, and `Corrupt` and its kinds.
    """
    where = f"{remote.name}@{descriptor.digest}"
    data = kept.get(contents.digest) if kept is not None and contents.is_stored else b""
    if data:
        with suppress(Corrupt):
            return ReadTable(contents.parse(data, where), data, 0)
    fetched = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal fetched
        with remote.read_blob(descriptor, offset, length) as pieces:
            found = b"".join(pieces)
        fetched += len(found)
        return found

    def read_all() -> tuple[bytes, Listing]:
        with judged(remote, descriptor):
            found = contents.fetch(read, where)
            return found, contents.parse(found, where)

    data, entries = until_right(read_all)
    if kept is not None and contents.is_stored:
        kept.put(contents.digest, data)
    return ReadTable(entries, data, fetched)


def decode_kept(data: bytes, chunk: Chunk) -> bytes | None:
    """Return the content of a chunk from how it was kept; None if that is something else, or nothing."""
    with suppress(Corrupt):
        if data:
            return decode_chunk(data, replace(chunk, length=len(data), inner=0))
    return None


def _is_held(entry: Entry, held: Mapping[str, KeptPiece]) -> bool:
    return bool(held) and all(chunk.zeros or chunk.digest in held for chunk in entry.chunks)


def _passes(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Split files into groups that each can be read in one movement through the blob.

    Files may share what is compressed together, or the byte in which one piece ends and the next begins. Beyond that
    it is one group, but for a table of contents that has files share their bytes.
    """
    left = sorted(files, key=lambda file: file.extent)
    while left:
        group: list[_File] = []
        later: list[_File] = []
        at = 0
        last = Range(0, 0)
        for file in left:
            if file.extent.start >= at - 1 or file.first == last or not file.extent.length:
                group.append(file)
                if file.extent.end >= at:
                    at, last = file.extent.end, file.last
            else:
                later.append(file)
        yield group
        left = later


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
