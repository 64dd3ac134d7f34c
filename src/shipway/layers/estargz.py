"""eStargz as written into a blob, and reading its table of contents (stargz-snapshotter, docs/estargz.md).

The blob is gzip, one member a chunk. The table is JSON in the archive's last entry, whose member the footer names; so
reading it takes the end of the blob. Nobody vouches for the footer, nor has to: wherever it leads, what is there
must have the digest that the descriptor's annotation names. Without that annotation neither is looked at, and
the blob is any gzip layer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import ClassVar, cast

from isal import igzip_lib, isal_zlib

from shipway import oci
from shipway.errors import Corrupt, Truncated
from shipway.layers.chunked import ESTARGZ, MAX_TABLE
from shipway.layers.compressing import Compressing
from shipway.layers.contents import MAX_FRAME, Fetch
from shipway.layers.headers import BLOCK
from shipway.layers.numbers import number
from shipway.layers.records import TableEntries, TableListing, digest_of
from shipway.layers.table_text import Text
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing
from shipway.trees.spool import Spool

UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
FOOTER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0%016xSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"
FOOTER_SIZE = 51
OLD_FOOTER_SIZE = 47
"""What stargz, of before, has."""
_FOOTER = re.compile(
    rb"\x1f\x8b\x08\x04.{6}(?:\x1a\0SG\x16\0|\x16\0)([0-9a-f]{16})STARGZ\x01\0\0\xff\xff\0{8}", re.DOTALL
)
_TAIL = 128 << 10
"""Bytes of a blob's end that are asked for at first: most tables are in there."""
_STEP = 16 << 10
"""Compressed bytes that are inflated at a time, where all of it is not needed at once."""
_GZIP = 31
# The package's stubs take these classes for instances.
_ERRORS = (cast(type[Exception], isal_zlib.error), cast(type[Exception], igzip_lib.IsalError))


@dataclass(frozen=True, slots=True)
class Stargz:
    """The table of contents of an eStargz blob of `size` bytes, whose JSON has the digest `digest`.

    Implements `Contents`. As it is stored, the table is the end of the blob from the table's member on.
    """

    size: int
    digest: str
    is_stored: ClassVar[bool] = True

    def fetch(self, read: Fetch, where: str) -> bytes:
        """Return the end of the blob, in one request or two; `Corrupt` if no footer says where the table is."""
        start = max(0, self.size - _TAIL)
        tail = read(start, self.size - start)
        offset = self._offset(tail, where)
        if offset is None:
            raise Corrupt("no eStargz footer", where=where)
        if offset >= start:
            return tail[offset - start :]
        return read(offset, start - offset) + tail

    def parse(self, table: Buffer, where: str) -> Listing:
        """Return the entries; see `Contents.parse`."""
        text = self._checked(partial(_text, table, where), where)
        return TableListing(text, self.size - len(table), where, apart=False)

    def entries(self, table: Buffer, where: str) -> Iterable[Entry]:
        """Return the entries, to be gone through any number of times; of these none is kept.

        Raises as `parse` does; of what an entry says not before it is reached.
        """
        text = self._checked(partial(_text, table, where), where)
        return TableEntries(text, self.size - len(table), where, apart=False)

    @property
    def passing(self) -> tuple[int, int]:
        """The bytes of the blob, from where and how many, that `overheard` wants of one that passes by."""
        return max(0, self.size - FOOTER_SIZE), FOOTER_SIZE

    def overheard(self, data: Spool, inside: Compressing | None, where: str) -> Iterable[Entry] | None:
        """Return the entries of a blob that passed by, given `passing`, and the table that is `inside` its archive.

        They are to be gone through once. None if no footer leads to a table: then nobody sees any. Raises as `parse`
        does; of what an entry says not before it is reached. What a footer leads to must
        have the right digest, or nobody takes it; so if that is not inside, it is hidden from who reads the archive.
        """
        offset = self._offset(data.read(0, len(data)), where)
        if offset is None:
            return None
        text = self._checked(inside.pieces if inside is not None else lambda: iter(()), where)
        return TableEntries(text, offset, where, apart=False)

    def _offset(self, tail: bytes, where: str) -> int | None:
        """Return where the footer at the end of `tail` says that the table is; None if there is no footer."""
        match = _FOOTER.fullmatch(tail[-FOOTER_SIZE:]) or _FOOTER.fullmatch(tail[-OLD_FOOTER_SIZE:])
        if not match:
            return None
        offset = int(match[1], 16)
        if not max(0, self.size - MAX_TABLE) <= offset < self.size - OLD_FOOTER_SIZE:
            raise Corrupt(f"its table of contents cannot be at {offset}", where=where)
        return offset

    def _checked(self, text: Text, where: str) -> Text:
        digest = hashlib.sha256()
        for piece in text():
            digest.update(piece)
        oci.check_match(f"sha256:{digest.hexdigest()}", self.digest, f"{where}, table of contents")
        return text

    def inflate(self, data: Buffer, chunk: Chunk, where: str) -> bytes:
        """Return what a gzip member, or several, hold: other chunks or headers too."""
        return inflated(data, chunk.inner + chunk.size + MAX_FRAME, where)

    def span(self, chunk: Chunk) -> None:
        """Return None: chunks have digests of their own."""


def archive_end(table: Buffer, where: str) -> Iterator[bytes]:
    """Yield what an archive has from its table's header on, given the table as it is stored."""
    return inflated_pieces(table, MAX_TABLE, where)


def _text(table: Buffer, where: str) -> Iterator[Buffer]:
    """Yield the JSON of a table as it is stored; nothing of it was checked."""
    pieces = archive_end(table, where)
    head = b""
    while len(head) <= BLOCK and (piece := next(pieces, None)) is not None:
        head += piece
    left = number(head[124:136], where) if len(head) > BLOCK else 0
    for text in chain((head[BLOCK:],), pieces):
        if left:  # else it is only looked whether the end is whole
            yield text[:left]
            left -= min(left, len(text))


def stargz(descriptor: Descriptor) -> Stargz | None:
    """Return the table of contents that the descriptor's annotation promises, or None; `Corrupt` if it is no digest."""
    digest = descriptor.annotations.get(ESTARGZ)
    return None if digest is None else Stargz(descriptor.size, digest_of(digest, descriptor.digest))


def inflated(data: Buffer, limit: int, where: str) -> bytes:
    """Return at most `limit` bytes of what gzip members, one after the other, hold."""
    pieces: list[bytes] = []
    left = limit
    rest: Buffer = data
    try:
        while left and len(rest):
            member = isal_zlib.decompressobj(_GZIP)
            piece = member.decompress(rest, left)
            pieces.append(piece)
            left -= len(piece)
            if not member.eof:
                if left:
                    raise _truncated(where)
                break
            rest = member.unused_data
    except _ERRORS as error:
        raise _corrupt(error, where) from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def inflated_pieces(data: Buffer, limit: int, where: str) -> Iterator[bytes]:
    """Yield what `inflated` returns, piece by piece: at most a thousand times `_STEP` bytes at a time."""
    view = memoryview(data)
    member, at, left, ended = isal_zlib.decompressobj(_GZIP), 0, limit, True
    while left and at < len(view):
        step = view[at : at + _STEP]
        try:
            piece = member.decompress(step)
        except _ERRORS as error:
            raise _corrupt(error, where) from error
        at += len(step) - len(member.unused_data)
        piece = piece[:left]
        left -= len(piece)
        ended = member.eof
        if ended:
            member = isal_zlib.decompressobj(_GZIP)
        yield piece
    if left and not ended:
        raise _truncated(where)


def _corrupt(error: Exception, where: str) -> Corrupt:
    return Corrupt(f"not gzip data: {error}", where=where)


def _truncated(where: str) -> Truncated:
    return Truncated("gzip data ends before its end-of-stream marker", where=where)
