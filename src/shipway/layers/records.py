"""The records of tables of contents, as zstd:chunked and eStargz have them, become entries."""

from __future__ import annotations

import os
import re
from binascii import a2b_base64
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast, get_args

from shipway.errors import Corrupt, UnsafeEntry
from shipway.layers.chunked import Record, Table
from shipway.layers.numbers import check_device, check_owner
from shipway.layers.pax import xattr_name
from shipway.layers.tar import MAX_NAME
from shipway.layers.whiteouts import may_be_whiteout, whiteout
from shipway.trees.entry import Chunk, Entry, Kind, clean_archive_path

_KINDS = frozenset(get_args(Kind)) - {"whiteout", "opaque"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_EPOCH = datetime.fromtimestamp(0, UTC)
_SECOND = timedelta(seconds=1)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def entries_of(table: Table, limit: int, where: str, *, apart: bool = True) -> list[Entry]:
    """Return the entries of a table whose files lie in the blob's first `limit` bytes.

    Chunks are compressed `apart`, or several may be in one piece. Raises `Corrupt` or `UnsafeEntry` if
    what it says cannot be.
    """
    if table.version != 1:
        raise Corrupt(f"a table of contents of the unknown version {table.version}", where=where)
    ends = _ends(table.entries, limit)
    if not apart and not ends:
        ends = [limit]
    entries: list[Entry] = []
    seen: set[str] = set()
    for record, chunk_records in _files(table.entries, where):
        name = _decoded(record.name_raw, record.name, where)
        named = f"{where}: {name[:200]!r}" if where else repr(name[:200])
        path = clean_archive_path(name, named)
        if may_be_whiteout(path):
            entry = whiteout(path, named)
        else:
            chunks = _chunks(record, chunk_records, limit, ends, named, apart=apart) if record.size else ()
            entry = _entry(record, path, chunks, named)
        if entry is None:
            continue
        key = f"{entry.kind}\0{entry.path}" if entry.kind in ("whiteout", "opaque") else entry.path
        if key in seen:
            raise Corrupt("twice in the table of contents", where=named)
        seen.add(key)
        entries.append(entry)
    return entries


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


def _entry(record: Record, path: str, chunks: tuple[Chunk, ...], where: str) -> Entry:
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
        digest=_content_digest(record, chunks, where) if record.size else "",
        chunks=chunks,
    )


def _content_digest(record: Record, chunks: tuple[Chunk, ...], where: str) -> str:
    if record.digest and chunks[0].digest == record.digest:  # most files are one chunk, whose digest was looked at
        return record.digest
    return digest_of(record.digest, where)


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
    record: Record, records: Sequence[Record], limit: int, ends: Sequence[int], where: str, *, apart: bool
) -> tuple[Chunk, ...]:
    """Return a file's chunks, which have to follow one another up to its end, inside the blob's first `limit` bytes."""
    chunks: list[Chunk] = []
    start = 0
    for index, one in enumerate(records):
        following = records[index + 1] if index + 1 < len(records) else None
        size = (record.size if following is None else following.chunk_offset) - start
        if not apart:
            end = _end_after(one.offset, ends)
        else:
            end = following.offset if following is not None else record.end_offset or _end_after(one.offset, ends)
        zeros = one.chunk_type == "zeros"
        digest = ""
        if not zeros:
            digest = digest_of(one.chunk_digest or (record.digest if len(records) == 1 else ""), where)
        if (
            one.chunk_offset != start
            or size <= 0
            or one.chunk_size not in (0, size)
            or not 0 <= one.offset < end <= limit
        ):
            raise Corrupt("its chunks do not fit together", where=where)
        chunks.append(Chunk(one.offset, end - one.offset, start, size, digest, zeros, 0 if apart else one.inner_offset))
        start += size
    return tuple(chunks)


def _end_after(offset: int, ends: Sequence[int]) -> int:
    index = bisect_right(ends, offset)
    return ends[index] if index < len(ends) else 0


def digest_of(digest: str, where: str) -> str:
    """Return `digest` if it is one of sha256; else `Corrupt`."""
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
