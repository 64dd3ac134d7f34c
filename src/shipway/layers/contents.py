"""The contract of a table of contents: where in a layer's blob its files are, and how to get at them there.

A layer that has one can be listed with a request or two, and its files read by ranges. Three formats fulfil
it: zstd:chunked (`toc`), eStargz (`estargz`), and the index that is made of any other layer when it was
read once (`index`). All lead to the same: entries, whose chunks name ranges of the blob.

A table is bound to a digest that its user trusts: that of the manifest's annotation, or of what this
store wrote down itself. Nothing that a table says is used before the table was checked against it, and no chunk before
the chunk was checked against the digest that the table has for it. `tests/layers/test_contents.py` is what every
format must pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shipway import oci
from shipway.errors import Corrupt, Truncated
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing

Fetch = Callable[[int, int], bytes]
"""Returns as many bytes of a blob, from an offset on, as it is asked for."""

MAX_CHUNK = 1 << 30
"""Largest chunk, in bytes, that is decoded: those of other writers can be whole files."""
COARSE = 16 << 20
"""Largest chunk, in bytes, that is held in memory: for files of larger ones a layer is read from its beginning."""
MAX_FRAME = 16 << 20
"""Most bytes that come out of a frame beyond the chunk that is wanted of it."""


class Contents(Protocol):
    """A layer's table of contents, wherever it is. Immutable."""

    @property
    def digest(self) -> str:
        """A digest that settles the layer's entries and their contents."""

    @property
    def is_stored(self) -> bool:
        """Whether the table is in the blob, so that it is worth keeping once it was fetched."""

    def fetch(self, read: Fetch, where: str) -> bytes:
        """Return the table as it is stored, read from the blob; not checked yet."""

    def parse(self, table: Buffer, where: str) -> Listing:
        """Return the layer's entries, with their chunks, of a table that may be anything.

        Raises `DigestMismatch`, `Truncated` or `SizeMismatch` if it is not the one that was promised, `Corrupt` or
        `UnsafeEntry` if what it says cannot be; of a single entry maybe not before that is looked at.
        """

    def inflate(self, data: Buffer, chunk: Chunk, where: str) -> bytes:
        """Return what the compressed bytes of a chunk hold: its content after `chunk.inner` bytes, and maybe more.

        A format whose chunks have no digests of their own checks here what comes out. Raises `Corrupt`, or
        `Truncated` or `SizeMismatch` where that can be told.
        """

    def span(self, chunk: Chunk) -> Chunk | None:
        """Return, as a chunk, all that the compressed bytes of a chunk hold; None if that has no digest of its own."""


def is_coarse(entry: Entry) -> bool:
    """Whether a file has a chunk that is too large to be held."""
    return entry.size > COARSE and any(chunk.size > COARSE and not chunk.zeros for chunk in entry.chunks)


class ChunkReader:
    """Takes chunks of one layer out of compressed bytes; of chunks that share theirs, these are inflated once."""

    def __init__(self, contents: Contents) -> None:
        """Read as `contents` says."""
        self._contents = contents
        self._place = (-1, -1)
        self.data: Buffer = b""
        """The compressed bytes of the chunk taken last, valid as long as `take` says."""
        self.plain = b""
        """What these hold."""

    def content(self, chunk: Chunk, take: Callable[[int, int], Buffer], where: str, until: int = 0) -> bytes:
        """Return a chunk's content, checked; `take` returns the bytes at an offset of the blob.

        With `until` what follows it there comes with it, up to that many bytes of what its compressed bytes hold. Of
        that nothing is checked.
        """
        if chunk.zeros:
            return bytes(chunk.size)
        end = chunk.inner + chunk.size
        if chunk.size > MAX_CHUNK or chunk.inner > MAX_FRAME or chunk.length > end + 2 * MAX_FRAME:
            what = f"a chunk of {chunk.size} bytes after {chunk.inner}, of {chunk.length} compressed"
            raise Corrupt(what, where=where)
        place = (chunk.offset, chunk.length)
        if place != self._place:
            self.data = take(*place)
            oci.check_size(len(self.data), chunk.length, where)
            self.plain, self._place = self._contents.inflate(self.data, chunk, where), place
        content = _checked(self.plain, chunk, where)
        if not until:
            return content
        if until > len(self.plain) >= end + MAX_FRAME:
            raise Corrupt(f"more than {MAX_FRAME} bytes follow a chunk", where=where)
        return self.plain[chunk.inner : until]


def _checked(plain: bytes, chunk: Chunk, where: str) -> bytes:
    end = chunk.inner + chunk.size
    if len(plain) < end:
        raise Truncated(f"ended after {len(plain)} of {end} bytes", where=where)
    content = plain if len(plain) == chunk.size else plain[chunk.inner : end]
    if chunk.digest:
        oci.check_match(oci.sha256(content), chunk.digest, where)
    return content


def read_chunk(contents: Contents, data: Buffer, chunk: Chunk, where: str = "") -> bytes:
    """Return the content of one chunk from its compressed bytes, checked against its size and digest."""
    return ChunkReader(contents).content(chunk, lambda _offset, _length: data, where)
