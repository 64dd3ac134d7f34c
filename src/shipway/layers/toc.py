"""Reading a zstd:chunked table of contents, and single chunks out of a blob."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import zstandard

from shipway import oci
from shipway.errors import Corrupt
from shipway.layers import chunked
from shipway.layers.compressing import Compressing, decompressed_pieces
from shipway.layers.contents import Fetch, read_chunk
from shipway.layers.records import TableEntries, TableListing, digest_of
from shipway.layers.table_text import Text, split_digest
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing
from shipway.trees.spool import Spool


@dataclass(frozen=True, slots=True)
class TocLocation:
    """Where a blob's table of contents is: bytes, and the digest of them as they are, compressed.

    `plain_digest`, if it is there, is that of the table uncompressed. Implements `Contents`.
    """

    offset: int
    length: int
    uncompressed: int
    digest: str
    plain_digest: str = ""

    is_stored: ClassVar[bool] = True

    def fetch(self, read: Fetch, where: str) -> bytes:  # noqa: ARG002  of the contract
        """Return the table as it is in the blob."""
        return read(self.offset, self.length)

    def parse(self, table: Buffer, where: str) -> Listing:
        """Return its entries; see `parse_toc`."""
        return parse_toc(table, self, where)

    def entries(self, table: Buffer, where: str) -> Iterable[Entry]:
        """Return its entries, to be gone through any number of times; of these none is kept.

        Raises as `parse` does; of what an entry says not before it is reached.
        """
        return TableEntries(_text(table, self, where), self.offset, where)

    def split_digest(self, table: Buffer, where: str) -> str:
        """Return the digest of the tar-split that its table, which was checked, speaks of; empty for none."""
        return split_digest(partial(decompressed_pieces, table), where)

    @property
    def passing(self) -> tuple[int, int]:
        """The bytes of the blob, from where and how many, that `overheard` wants of one that passes by."""
        return self.offset, self.length

    def overheard(self, data: Spool, inside: Compressing | None, where: str) -> Iterable[Entry]:  # noqa: ARG002  eStargz needs it
        """Return the entries of a blob that passed by, given `passing`, to be gone through once.

        Raises as `parse` does; of what an entry says not before it is reached.
        """
        return TableEntries(_text(data, self, where), self.offset, where)

    def inflate(self, data: Buffer, chunk: Chunk, where: str) -> bytes:
        """Return the content of a chunk. Where the table does not say where it ends, headers follow it."""
        return first_bytes(data, chunk.size, where)

    def span(self, chunk: Chunk) -> None:
        """Return None: chunks have digests of their own."""


def toc_location(descriptor: Descriptor) -> TocLocation | None:
    """Return where the table of contents is that the descriptor's annotations promise, or None without one.

    `Corrupt` if they make no sense: two kinds of tables, a place outside the blob, or
    one too large to take. stargz-snapshotter, which writes the first generation, gives the digest of the
    uncompressed table too, under eStargz's name; then both have to be right.
    """
    annotations, where = descriptor.annotations, descriptor.digest
    prefix = next((one for one in (chunked.PREFIX, chunked.OLD_PREFIX) if one + chunked.CHECKSUM in annotations), None)
    if prefix is None:
        return None
    plain_digest = annotations.get(chunked.ESTARGZ, "")
    if plain_digest and prefix != chunked.OLD_PREFIX:
        raise Corrupt("two kinds of tables of contents", where=where)
    position = annotations.get(prefix + chunked.POSITION, "")
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18}):(\d{1,18}):(\d{1,3})", position)
    if not match or int(match[4]) != chunked.TABLE_TYPE:
        raise Corrupt(f"not the position of a table of contents: {position[:100]!r}", where=where)
    offset, length, uncompressed = int(match[1]), int(match[2]), int(match[3])
    if not length or offset + length > descriptor.size or max(length, uncompressed) > chunked.MAX_TABLE:
        raise Corrupt(f"its table of contents cannot be at {position}", where=where)
    digest = digest_of(annotations[prefix + chunked.CHECKSUM], where)
    return TocLocation(offset, length, uncompressed, digest, plain_digest and digest_of(plain_digest, where))


def parse_toc(data: Buffer, location: TocLocation, where: str = "") -> Listing:
    """Return the entries, with their chunks, of the table of contents that `data` is, compressed.

    Raises `DigestMismatch`, `Truncated` or `SizeMismatch` if it is not the one that
    was promised, `Corrupt` or `UnsafeEntry` if what it says cannot be, as `TableListing` does.
    """
    oci.verify(data, location.digest, location.length, where)
    return TableListing(partial(_pieces, data, location, where), location.offset, where, frames=data)


def _text(data: Buffer | Spool, location: TocLocation, where: str) -> Text:
    """Return the text of a table of contents that `data` is, compressed, checked as `parse_toc` says."""
    oci.check_size(len(data), location.length, where)
    oci.check_match(data.digest() if isinstance(data, Spool) else oci.sha256(data), location.digest, where)
    for _ in _pieces(data, location, where):
        pass
    return partial(decompressed_pieces, data)


def _pieces(data: Buffer | Spool, location: TocLocation, where: str) -> Iterator[bytes]:
    """Yield the text; at its end it has been checked."""
    size, digest = 0, hashlib.sha256()
    try:
        for piece in decompressed_pieces(data):
            size += len(piece)
            if location.plain_digest:
                digest.update(piece)
            if size > location.uncompressed:
                break
            yield piece
    except zstandard.ZstdError as error:
        raise Corrupt(f"not zstd data: {error}", where=where) from error
    oci.check_size(size, location.uncompressed, where)
    if location.plain_digest:
        oci.check_match(f"sha256:{digest.hexdigest()}", location.plain_digest, where)


def decode_chunk(data: Buffer, chunk: Chunk, where: str = "") -> bytes:
    """Return the content of a chunk from its compressed bytes, checked against its size and digest."""
    return read_chunk(_ZSTD, data, chunk, where)


_ZSTD = TocLocation(0, 0, 0, "")


def first_bytes(data: Buffer, size: int, where: str) -> bytes:
    """Return the first `size` bytes that `data`, zstd frames, decompresses to."""
    try:
        if zstandard.frame_content_size(data) == size:
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=True)
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        plain = reader.read(size)
    except zstandard.ZstdError as error:
        raise Corrupt(f"not zstd data: {error}", where=where) from error
    oci.check_size(len(plain), size, where)
    return plain
