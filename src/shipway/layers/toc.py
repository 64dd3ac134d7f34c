"""Reading a zstd:chunked table of contents, and single chunks out of a blob."""

from __future__ import annotations

import os
import re
from binascii import a2b_base64
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast, get_args

import msgspec
import zstandard

from shipway import oci
from shipway.errors import Corrupt, UnsafeEntry
from shipway.layers import chunked
from shipway.layers.bounds import Bounds
from shipway.layers.chunked import Record, Table
from shipway.layers.numbers import check_device, check_owner
from shipway.layers.pax import xattr_name
from shipway.layers.tar import MAX_NAME
from shipway.layers.whiteouts import may_be_whiteout, whiteout
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry, Kind, clean_archive_path

MAX_CHUNK = 1 << 30
"""Largest chunk, in bytes, that is decoded: those of other writers can be whole files."""
_KINDS = frozenset(get_args(Kind)) - {"whiteout", "opaque"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_EPOCH = datetime.fromtimestamp(0, UTC)
_SECOND = timedelta(seconds=1)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TocLocation:
    """Where a blob's table of contents is: bytes, and the digest of them as they are, compressed."""

    offset: int
    length: int
    uncompressed: int
    digest: str


def toc_location(descriptor: Descriptor) -> TocLocation | None:
    """Return where the table of contents is that the descriptor's annotations promise, or None without one.

    `Corrupt` if they make no sense: two kinds of tables, a place outside the blob, or
    one too large to take.
    """
    annotations, where = descriptor.annotations, descriptor.digest
    prefix = next((one for one in (chunked.PREFIX, chunked.OLD_PREFIX) if one + chunked.CHECKSUM in annotations), None)
    if prefix is None:
        return None
    if chunked.ESTARGZ in annotations:
        raise Corrupt("two kinds of tables of contents", where=where)
    position = annotations.get(prefix + chunked.POSITION, "")
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18}):(\d{1,18}):(\d{1,3})", position)
    if not match or int(match[4]) != chunked.TABLE_TYPE:
        raise Corrupt(f"not the position of a table of contents: {position[:100]!r}", where=where)
    offset, length, uncompressed = int(match[1]), int(match[2]), int(match[3])
    if not length or offset + length > descriptor.size or max(length, uncompressed) > chunked.MAX_TABLE:
        raise Corrupt(f"its table of contents cannot be at {position}", where=where)
    digest = _digest(annotations[prefix + chunked.CHECKSUM], where)
    return TocLocation(offset, length, uncompressed, digest)


def parse_toc(data: bytes, location: TocLocation, where: str = "", bounds: Bounds | None = None) -> list[Entry]:
    """Return the entries, with their chunks, of the table of contents that `data` is, compressed.

    Raises `DigestMismatch`, `Truncated` or `SizeMismatch` if it is not the one that
    was promised, `Corrupt` or `UnsafeEntry` if what it says cannot be, `TooLarge` if it passes `bounds`.
    """
    oci.verify(data, location.digest, location.length, where)
    plain = _inflate(data, location.uncompressed, where)
    table = oci.decode(plain, Table, where)
    if table.version != 1:
        raise Corrupt(f"a table of contents of the unknown version {table.version}", where=where)
    ends = _ends(table.entries, location.offset)
    entries: list[Entry] = []
    seen: set[str] = set()
    for record, chunk_records in _files(table.entries, where):
        name = _decoded(record.name_raw, record.name, where)
        named = f"{where}: {name[:200]!r}" if where else repr(name[:200])
        path = clean_archive_path(name, named)
        if may_be_whiteout(path):
            entry = whiteout(path, named)
        else:
            entry = _entry(record, path, named)
            if record.size:
                chunks = _chunks(record, chunk_records, location.offset, ends, named)
                entry = msgspec.structs.replace(entry, chunks=chunks)
        if entry is None:
            continue
        key = f"{entry.kind}\0{entry.path}" if entry.kind in ("whiteout", "opaque") else entry.path
        if key in seen:
            raise Corrupt("twice in the table of contents", where=named)
        seen.add(key)
        if bounds is not None:
            bounds.count(entry)
            bounds.count_data(sum(chunk.size for chunk in entry.chunks if not chunk.zeros))
        entries.append(entry)
    return entries


def decode_chunk(data: Buffer, chunk: Chunk, where: str = "") -> bytes:
    """Return the content of a chunk from its compressed bytes, checked against its size and digest."""
    if chunk.zeros:
        return bytes(chunk.size)
    if chunk.size > MAX_CHUNK:
        raise Corrupt(f"a chunk of {chunk.size} bytes", where=where)
    oci.check_size(len(data), chunk.length, where)
    plain = _inflate(data, chunk.size, where)
    if chunk.digest:
        oci.check_match(oci.sha256(plain), chunk.digest, where)
    return plain


def _inflate(data: Buffer, size: int, where: str) -> bytes:
    """Return the `size` bytes that `data`, one zstd frame or several, decompresses to."""
    try:
        if zstandard.frame_content_size(data) == size:
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        plain = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise Corrupt(f"not zstd data: {error}", where=where) from error
    oci.check_size(len(plain), size, where)
    return plain


def _files(records: Sequence[Record], where: str) -> Iterator[tuple[Record, Sequence[Record]]]:
    """Yield each entry with all records of its chunks, the first of which is itself."""
    index = 0
    while index < len(records):
        first = index
        index += 1
        while index < len(records) and records[index].type == "chunk":
            index += 1
        record = records[first]
        if record.type not in _KINDS or (index - first > 1 and record.type != "reg"):
            raise Corrupt(f"an entry of the unknown type {record.type[:20]!r}", where=where)
        yield record, records[first:index]


def _ends(records: Sequence[Record], end: int) -> list[int]:
    """Return, in order, where frames start if there are files that do not say where they end, and the last's end."""
    if all(record.end_offset or not record.size for record in records):
        return []
    return sorted({record.offset for record in records if record.offset} | {end})


def _entry(record: Record, path: str, where: str) -> Entry:
    kind = cast(Kind, record.type)
    if not path and kind != "dir":
        raise UnsafeEntry(f"a {kind} in the place of the root", where=where)
    if len(path) > MAX_NAME or (record.size and kind != "reg"):
        raise Corrupt(f"a {kind} of {record.size} bytes under a name of {len(path)}", where=where)
    check_owner(record.uid, record.gid, where)
    return Entry(
        path=path,
        kind=kind,
        mode=record.mode & 0o7777,
        uid=record.uid,
        gid=record.gid,
        size=record.size,
        mtime_ns=_time_ns(record.modtime, where) if record.modtime else 0,
        link=_link(record, kind, where) if kind in ("symlink", "hardlink") else "",
        dev=check_device(record.dev_major, record.dev_minor, where) if kind in ("char", "block") else (0, 0),
        xattrs=_xattrs(record, where) if record.xattrs or record.xattrs_raw else {},
        digest=_digest(record.digest, where) if record.size else "",
    )


def _link(record: Record, kind: Kind, where: str) -> str:
    link = _decoded(record.link_name_raw, record.link_name, where)
    if not link or "\0" in link or len(link) > MAX_NAME:
        raise Corrupt(f"a link to {link[:200]!r}", where=where)
    if kind == "symlink":
        return link
    link = clean_archive_path(link, where)
    if not link:
        raise UnsafeEntry("a hard link to the root", where=where)
    return link


def _chunks(
    record: Record, records: Sequence[Record], limit: int, ends: Sequence[int], where: str
) -> tuple[Chunk, ...]:
    """Return a file's chunks, which have to follow one another up to its end, inside the blob's first `limit` bytes."""
    chunks: list[Chunk] = []
    start = 0
    for index, one in enumerate(records):
        following = records[index + 1] if index + 1 < len(records) else None
        if following is not None:
            end, size = following.offset, following.chunk_offset - start
        else:
            end, size = record.end_offset or _end_after(one.offset, ends), record.size - start
        zeros = one.chunk_type == "zeros"
        digest = ""
        if not zeros:
            digest = _digest(one.chunk_digest or (record.digest if len(records) == 1 else ""), where)
        if (
            one.chunk_offset != start
            or size <= 0
            or one.chunk_size not in (0, size)
            or not 0 <= one.offset < end <= limit
        ):
            raise Corrupt("its chunks do not fit together", where=where)
        chunks.append(Chunk(one.offset, end - one.offset, start, size, digest, zeros))
        start += size
    return tuple(chunks)


def _end_after(offset: int, ends: Sequence[int]) -> int:
    index = bisect_right(ends, offset)
    return ends[index] if index < len(ends) else 0


def _digest(digest: str, where: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise Corrupt(f"not a sha256 digest: {digest[:100]!r}", where=where)
    return digest


def _decoded(raw: str, text: str, where: str) -> str:
    """Return a name, from its raw form if there is one."""
    if raw:
        return os.fsdecode(_bytes(raw, where))
    return text if text.isascii() else os.fsdecode(_utf8(text, where))


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Corrupt("a name that is no text", where=where) from error


def _bytes(text: str, where: str) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Corrupt(f"not base64: {text[:40]!r}", where=where) from error


def _xattrs(record: Record, where: str) -> dict[str, bytes]:
    xattrs = {xattr_name(_utf8(name, where)): _bytes(value, where) for name, value in record.xattrs.items()}
    for name, value in record.xattrs_raw.items():
        xattrs[xattr_name(_bytes(name, where))] = _bytes(value, where)
    return xattrs


def _time_ns(text: str, where: str) -> int:
    """Return an RFC 3339 time in nanoseconds; the year 1's beginning, Go's zero, is none: 0."""
    match = _TIME.fullmatch(text)
    if not match:
        raise Corrupt(f"not a time: {text[:40]!r}", where=where)
    if text == _ZERO_TIME:
        return 0
    try:
        seconds = _seconds(match[1], match[3])
    except ValueError as error:
        raise Corrupt(f"not a time: {text[:40]!r}", where=where) from error
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


@lru_cache(maxsize=4096)
def _seconds(date: str, zone: str) -> int:
    moment = datetime.fromisoformat(date + ("+00:00" if zone == "Z" else zone))
    return (moment - _EPOCH) // _SECOND
