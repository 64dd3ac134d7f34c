"""Writing what makes a blob zstd:chunked: table of contents, tar-split, footer, annotations."""

from __future__ import annotations

import os
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from shipway.layers import chunked
from shipway.layers.chunked import Record, modtime, skippable
from shipway.layers.compressing import Compressing
from shipway.layers.pax import XATTR, xattr_key
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.spool import Spool

_SEGMENT = b'{"type":2,"payload":"%b","position":%d}\n'
_FILE = b'{"type":1,%b,"size":%d,"payload":%b,"position":%d}\n'
_TYPES = {"whiteout": "reg", "opaque": "reg"}
_encode = msgspec.json.Encoder().encode


class FileContent(NamedTuple):
    """A file's content in the blob: its sha256, its CRC-64 (GO-ISO), and at least one chunk."""

    digest: str
    crc: int
    chunks: Sequence[Chunk]


class End(NamedTuple):
    """What a table adds to a layer: bytes of its blob, what of them is archive, annotations of its descriptor.

    Both are in pieces: a table of many entries is large.
    """

    blob: Iterable[Buffer]
    archive: Iterable[Buffer]
    annotations: dict[str, str]


class LayerTable(Protocol):
    """Takes a layer's entries as they are packed, and makes a table of contents of them."""

    headers_apart: bool
    """Whether padding and headers after a content are compressed apart from it."""

    def add(self, entry: Entry, name: str, header: Buffer, content: FileContent | None = None) -> None:
        """Take the next entry, its archive name, and the raw bytes between the last content and its own."""

    def trailer(self, raw: Buffer) -> None:
        """Take raw bytes that belong to no entry's content."""

    def finish(self, offset: int, archive: int) -> End:
        """Return the end of a blob that has `offset` bytes so far, of `archive` bytes of tar.

        It has no annotations if the table is larger than readers would take.
        """


class TableWriter:
    """Collects a layer's entries in order, with their header bytes and their chunks; implements `LayerTable`."""

    headers_apart = True

    def __init__(self, level: int) -> None:
        """Start an empty table; `level` is zstd's."""
        self._split = Compressing(level)
        self._table = Compressing(level)
        self._table.add(b'{"version":1,"entries":[')
        self._separator = b""
        self._count = 0

    def add(self, entry: Entry, name: str, header: Buffer, content: FileContent | None = None) -> None:
        """Take the next entry, its archive name, and the raw bytes between the last content and its own."""
        if self._table.size > chunked.MAX_TABLE:
            return
        text, name_raw = _text(name)
        named = b'"name":%b' % _encode(text) if not name_raw else b'"name_raw":%b' % _encode(name_raw)
        payload = b'"%b"' % b2a_base64(content.crc.to_bytes(8, "big"), newline=False) if content else b"null"
        raw, count = b2a_base64(header, newline=False), self._count
        self._split.add(_SEGMENT % (raw, count) + _FILE % (named, entry.size, payload, count + 1))
        self._count = count + 2
        self._table.add(self._separator + _encode(record_of(entry, name, content)))
        self._separator = b","
        if content is not None:
            for chunk in content.chunks[1:]:
                self._table.add(b"," + _encode(chunk_record(text, chunk)))

    def trailer(self, raw: Buffer) -> None:
        """Take raw bytes that belong to no entry's content."""
        self._split.add(_SEGMENT % (b2a_base64(raw, newline=False), self._count))
        self._count += 1

    def finish(self, offset: int, archive: int) -> End:  # noqa: ARG002  of the contract
        """Return the end of a blob that has `offset` bytes so far; it is empty if the table is too large."""
        split = self._split.finish()
        self._table.add(b'],"tarSplitDigest":"%b"}' % split.digest().encode())
        toc = self._table.finish()
        if self._table.size > chunked.MAX_TABLE:
            return End((), (), {})
        at = offset + chunked.SKIPPABLE.size
        split_at = at + len(toc) + chunked.SKIPPABLE.size
        place = (at, len(toc), self._table.size, chunked.TABLE_TYPE)
        split_place = (split_at, len(split), self._split.size)
        footer = chunked.FOOTER.pack(*place, *split_place, chunked.MAGIC)
        annotations = {
            chunked.PREFIX + chunked.CHECKSUM: toc.digest(),
            chunked.PREFIX + chunked.POSITION: ":".join(map(str, place)),
            chunked.PREFIX + chunked.TAR_SPLIT_POSITION: ":".join(map(str, split_place)),
            chunked.HEADERS: chunked.HEADERS_VERSION,
        }
        frames = (chain([skippable(len(payload))], payload.pieces()) for payload in (toc, split, Spool(footer)))
        return End(chain.from_iterable(frames), (), annotations)


def _text(name: str) -> tuple[str, str]:
    """Return a name as JSON can hold it, and, if something was lost by that, its bytes in base64."""
    if name.isascii():
        return name, ""
    raw = os.fsencode(name)
    try:
        return raw.decode(), ""
    except UnicodeDecodeError:
        return raw.decode(errors="replace"), _base64(raw)


def _base64(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode()


def record_of(entry: Entry, name: str, content: FileContent | None) -> Record:
    """Return the record of an entry with an archive name, and of its first chunk."""
    text, name_raw = _text(name)
    record = Record(
        type=_TYPES.get(entry.kind, entry.kind),
        name=text,
        name_raw=name_raw,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        modtime=modtime(entry.mtime_ns),
    )
    if entry.link:
        record.link_name, record.link_name_raw = _text(entry.link)
    if entry.kind in ("char", "block"):
        record.dev_major, record.dev_minor = entry.dev
    for key, value in sorted(entry.xattrs.items()):
        known, raw = _text(os.fsdecode(xattr_key(key).removeprefix(XATTR)))
        if raw:
            record.xattrs_raw = {**record.xattrs_raw, raw: _base64(value)}
        else:
            record.xattrs = {**record.xattrs, known: _base64(value)}
    if content is not None:
        first, last = content.chunks[0], content.chunks[-1]
        record.digest = content.digest
        record.offset = first.offset
        record.end_offset = last.offset + last.length
        if first is not last or first.zeros:
            record.chunk_size, record.chunk_digest = first.size, first.digest
            record.chunk_type = "zeros" if first.zeros else ""
    return record


def chunk_record(name: str, chunk: Chunk) -> Record:
    """Return the record of a further chunk."""
    return Record(
        type="chunk",
        name=name,
        offset=chunk.offset,
        chunk_offset=chunk.start,
        chunk_size=chunk.size,
        chunk_digest=chunk.digest,
        chunk_type="zeros" if chunk.zeros else "",
    )
