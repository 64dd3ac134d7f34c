"""Writing what makes a blob zstd:chunked: table of contents, tar-split, footer, annotations."""

from __future__ import annotations

import os
from binascii import b2a_base64
from collections.abc import Sequence

import msgspec
import zstandard

from shipway import oci
from shipway.layers import chunked
from shipway.layers.chunked import Record, Table, modtime, skippable
from shipway.layers.pax import XATTR, xattr_key
from shipway.trees.entry import Buffer, Chunk, Entry

_PIECE = 4 << 20
_TYPES = {"whiteout": "reg", "opaque": "reg"}
_encode = msgspec.json.Encoder().encode


class TableWriter:
    """Collects a layer's entries in order, with their header bytes and their chunks."""

    def __init__(self, level: int) -> None:
        """Start an empty table; `level` is zstd's."""
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self._records: list[Record] = []
        self._lines: list[bytes] = []
        self._pending = 0
        self._count = 0
        self._split: list[bytes] = []
        self._split_size = 0

    def add(self, entry: Entry, name: str, header: Buffer, crc: int, chunks: Sequence[Chunk], digest: str = "") -> None:
        """Take the next entry, its archive name, and the raw bytes between the last content and its own.

        `crc` is the content's CRC-64 (GO-ISO), `digest` its sha256 and `chunks` where it is; none if it is empty.
        """
        self.trailer(header)
        raw_name = os.fsencode(name)
        text, is_raw = _text(raw_name)
        named = b'"name":%b' % _encode(text) if not is_raw else b'"name_raw":"%b"' % b2a_base64(raw_name, newline=False)
        payload = b"null"
        if entry.size:
            payload = b'"%b"' % b2a_base64(crc.to_bytes(8, "big"), newline=False)
        self._line(b'{"type":1,%b,"size":%d,"payload":%b,"position":%d}\n' % (named, entry.size, payload, self._count))
        self._records.append(_record(entry, text, raw_name if is_raw else b"", chunks, digest))
        self._records.extend(_chunk_record(text, chunk) for chunk in chunks[1:])

    def trailer(self, raw: Buffer) -> None:
        """Take raw bytes that belong to no entry's content."""
        self._line(b'{"type":2,"payload":"%b","position":%d}\n' % (b2a_base64(raw, newline=False), self._count))

    def _line(self, line: bytes) -> None:
        self._count += 1
        self._lines.append(line)
        self._pending += len(line)
        if self._pending > _PIECE:
            self._compress_lines()

    def _compress_lines(self) -> None:
        data = b"".join(self._lines)
        self._split.append(self._compressor.compress(data))
        self._split_size += len(data)
        self._lines, self._pending = [], 0

    def finish(self, offset: int) -> tuple[bytes, dict[str, str]]:
        """Return the end of a blob that has `offset` bytes so far, and the descriptor's annotations.

        Both are empty if the table is larger than readers would take: then this is plain zstd.
        """
        self._compress_lines()
        split = b"".join(self._split)
        table = Table(version=1, entries=self._records, tar_split_digest=oci.sha256(split))
        plain = msgspec.json.encode(table)
        if len(plain) > chunked.MAX_TABLE:
            return b"", {}
        toc = self._compressor.compress(plain)
        at = offset + chunked.SKIPPABLE.size
        split_at = at + len(toc) + chunked.SKIPPABLE.size
        place = (at, len(toc), len(plain), chunked.TABLE_TYPE)
        split_place = (split_at, len(split), self._split_size)
        footer = chunked.FOOTER.pack(*place, *split_place, chunked.MAGIC)
        annotations = {
            chunked.PREFIX + chunked.CHECKSUM: oci.sha256(toc),
            chunked.PREFIX + chunked.POSITION: ":".join(map(str, place)),
            chunked.PREFIX + chunked.TAR_SPLIT_POSITION: ":".join(map(str, split_place)),
        }
        return skippable(toc) + skippable(split) + skippable(footer), annotations


def _text(raw: bytes) -> tuple[str, bool]:
    """Return a name as JSON can hold it, and whether something was lost by that."""
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        return raw.decode(errors="replace"), True


def _base64(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode()


def _record(entry: Entry, name: str, name_raw: bytes, chunks: Sequence[Chunk], digest: str) -> Record:
    record = Record(
        type=_TYPES.get(entry.kind, entry.kind),
        name=name,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        modtime=modtime(entry.mtime_ns),
        digest=digest,
    )
    if name_raw:
        record.name_raw = _base64(name_raw)
    if entry.link:
        raw = os.fsencode(entry.link)
        record.link_name, is_raw = _text(raw)
        if is_raw:
            record.link_name_raw = _base64(raw)
    if entry.kind in ("char", "block"):
        record.dev_major, record.dev_minor = entry.dev
    for key, value in sorted(entry.xattrs.items()):
        raw = xattr_key(key).removeprefix(XATTR)
        text, is_raw = _text(raw)
        if is_raw:
            record.xattrs_raw = {**record.xattrs_raw, _base64(raw): _base64(value)}
        else:
            record.xattrs = {**record.xattrs, text: _base64(value)}
    if chunks:
        record.offset = chunks[0].offset
        record.end_offset = chunks[-1].offset + chunks[-1].length
        if len(chunks) > 1 or chunks[0].zeros:
            record.chunk_size, record.chunk_digest = chunks[0].size, chunks[0].digest
            record.chunk_type = "zeros" if chunks[0].zeros else ""
    return record


def _chunk_record(name: str, chunk: Chunk) -> Record:
    return Record(
        type="chunk",
        name=name,
        offset=chunk.offset,
        chunk_offset=chunk.start,
        chunk_size=chunk.size,
        chunk_digest=chunk.digest,
        chunk_type="zeros" if chunk.zeros else "",
    )
