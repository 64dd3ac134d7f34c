"""A remote layer with a table of contents: its entries for one request, its files by ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from shipway import oci
from shipway.errors import Truncated
from shipway.layers.bounds import Bounds
from shipway.layers.toc import TocLocation, decode_chunk, parse_toc
from shipway.limits import Limits
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource
from shipway.transfer.ahead import Job
from shipway.transfer.delivery import WHOLE, Piece
from shipway.transfer.ranges import Range, plan
from shipway.trees.entry import Buffer, Chunk, Entry

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class _File:
    """A file to be read, and the bytes of the blob from its first chunk to its last."""

    entry: Entry
    extent: Range

    @classmethod
    def of(cls, entry: Entry) -> Self:
        chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
        if not chunks:
            return cls(entry, Range(0, 0))
        return cls(entry, Range(chunks[0].offset, chunks[-1].offset + chunks[-1].length))


class ChunkedLayer:
    """A layer of a remote image that has a table of contents. Thread-safe."""

    def __init__(self, remote: BlobSource, descriptor: Descriptor, location: TocLocation, limits: Limits) -> None:
        """Read from `remote`; nothing is fetched yet."""
        self._limits = limits
        self._remote = remote
        self._descriptor = descriptor
        self._location = location
        self._where = f"{remote.name}@{descriptor.digest}"
        self._entries: Sequence[Entry] | None = None

    @property
    def table(self) -> str:
        """The digest of its table of contents, which settles its entries and their contents."""
        return self._location.digest

    def entries(self) -> Sequence[Entry]:
        """Return the layer's entries; its table of contents is fetched on the first call, and checked.

        Raises what the remote raises, and `Corrupt` and its kinds.
        """
        if self._entries is None:
            location = self._location
            with self._remote.read_blob(self._descriptor, location.offset, location.length) as pieces:
                data = b"".join(pieces)
            bounds = Bounds(self._limits, self._descriptor.size, self._where)
            self._entries = parse_toc(data, location, self._where, bounds)
        return self._entries

    def jobs(self, entries: Iterable[Entry]) -> list[Job[Piece]]:
        """Return what reads the contents of `entries`, one job for each range to fetch.

        Every chunk is checked against its digest before it is delivered, and every file's whole
        content before its last piece is.
        """
        jobs: list[Job[Piece]] = []
        for files in _passes(_File.of(entry) for entry in entries):
            ranges = plan((file.extent for file in files), self._descriptor.size)
            rest = list(reversed(files))
            for one in ranges or [Range(0, 0)]:
                inside = []
                while rest and rest[-1].extent.end <= one.end:
                    inside.append(rest.pop().entry)
                jobs.append(partial(self._read, one, inside))
        return jobs

    def _read(self, wanted: Range, entries: Sequence[Entry]) -> Generator[Piece, None, None]:
        """Fetch one range and yield the files in it."""
        with self._remote.read_blob(self._descriptor, wanted.start, wanted.length) as pieces:
            stream = _Stream(iter(pieces), wanted.start, self._where)
            for entry in entries:
                yield from self._read_file(entry, stream)

    def _read_file(self, entry: Entry, stream: _Stream) -> Iterator[Piece]:
        chunks = entry.chunks
        contents = (chunk.size if chunk.zeros else self._decode(chunk, entry, stream) for chunk in chunks)
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

    def _decode(self, chunk: Chunk, entry: Entry, stream: _Stream) -> bytes:
        return decode_chunk(stream.take(chunk.offset, chunk.length), chunk, f"{self._where}, {entry.path!r}")

    def _check(self, digest: str, entry: Entry) -> None:
        if entry.digest:
            oci.check_match(digest, entry.digest, f"{self._where}, {entry.path!r}")


def _passes(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Split files into groups that each can be read in one movement through the blob.

    That is one group, but for a table of contents that has files share their bytes.
    """
    left = sorted(files, key=lambda file: file.extent)
    while left:
        group: list[_File] = []
        later: list[_File] = []
        at = 0
        for file in left:
            if file.extent.start >= at or not file.extent.length:
                group.append(file)
                at = max(at, file.extent.end)
            else:
                later.append(file)
        yield group
        left = later


class _Stream:
    """Bytes of a blob from `start` on, that are taken by their places in the blob, forwards."""

    def __init__(self, pieces: Iterator[Buffer], start: int, where: str) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._start = start
        """Where in the blob the present piece begins."""
        self._where = where

    def take(self, offset: int, length: int) -> Buffer:
        """Return `length` bytes from `offset` on; valid until the next call."""
        while offset >= self._start + len(self._piece):
            if not length:
                return b""
            self._next()
        begin = offset - self._start
        if begin + length <= len(self._piece):
            return self._piece[begin : begin + length]
        data = bytearray(self._piece[begin:])
        while len(data) < length:
            self._next()
            data += self._piece[: length - len(data)]
        return data

    def _next(self) -> None:
        self._start += len(self._piece)
        piece = next(self._pieces, None)
        if piece is None:
            raise Truncated("the range ended early", where=self._where)
        self._piece = memoryview(piece)
