"""The records of tables of contents, as zstd:chunked and eStargz have them, become entries."""

from __future__ import annotations

import os
import re
from binascii import a2b_base64
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import zip_longest
from typing import cast, get_args

from shipway.errors import Corrupt, UnsafeEntry
from shipway.layers.chunked import Record, Table
from shipway.layers.numbers import check_device, check_owner
from shipway.layers.pax import xattr_name
from shipway.layers.tar import MAX_NAME
from shipway.layers.whiteouts import may_be_whiteout, whiteout
from shipway.trees.entry import Chunk, Entry, Kind, clean_archive_path
from shipway.trees.listing import Listing

_KINDS = frozenset(get_args(Kind)) - {"whiteout", "opaque"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_EPOCH = datetime.fromtimestamp(0, UTC)
_SECOND = timedelta(seconds=1)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class TableListing(Listing):
    """The entries of a table whose files lie in the blob's first `limit` bytes.

    Chunks are compressed `apart`, or several may be in one piece. Raises `Corrupt` or `UnsafeEntry` for
    paths and kinds that cannot be, and for files of several chunks that do not fit together.
    """

    def __init__(self, table: Table, limit: int, where: str, *, apart: bool = True) -> None:
        """List what a table says."""
        if table.version != 1:
            raise Corrupt(f"a table of contents of the unknown version {table.version}", where=where)
        self._records = table.entries
        self._limit = limit
        self._where = where
        self._apart = apart
        self._ends: list[int] | None = None
        self._places: list[int] = []
        """Where the record of each entry is."""
        self._made: dict[int, Entry] = {}
        """Entries that were worked out at once, by their number: few are changes, or files of several chunks."""
        self.paths: list[str] = []
        self.kinds: list[Kind] = []
        self._list()

    def _list(self) -> None:
        records = self._records
        paths, kinds, places = self.paths, self.kinds, self._places
        following = iter(records)
        next(following, None)
        for place, (record, after) in enumerate(zip_longest(records, following)):
            kind = record.type
            if kind == "chunk" and place:
                continue
            more = after is not None and after.type == "chunk"
            if kind not in _KINDS or (more and kind != "reg"):
                raise Corrupt(f"an entry of the unknown type {kind[:20]!r}", where=self._where)
            path = self._path(record)
            if may_be_whiteout(path):
                change = whiteout(path, self._named(path))
                if change is None:
                    continue
                self._made[len(paths)] = change
                path, kind = change.path, change.kind
            elif more or record.chunk_type:
                self._made[len(paths)] = self._work_out(place, path)
            paths.append(path)
            kinds.append(cast(Kind, kind))
            places.append(place)
        self._check_once()

    def _path(self, record: Record) -> str:
        name = record.name
        if record.name_raw or not name.isascii():
            name = _decoded(record.name_raw, name, self._where)
        try:
            return clean_archive_path(name, "")
        except UnsafeEntry as error:
            raise UnsafeEntry(error.what, where=self._where) from error

    def _check_once(self) -> None:
        """Raise `Corrupt` if anything is there twice; a change and a file at one path are two things."""
        if len(set(self.paths)) == len(self.paths):
            return
        seen: set[tuple[str, str]] = set()
        for path, kind in zip(self.paths, self.kinds, strict=True):
            key = (path, kind if kind in ("whiteout", "opaque") else "")
            if key in seen:
                raise Corrupt("twice in the table of contents", where=self._named(path))
            seen.add(key)

    def entry(self, index: int) -> Entry:
        """Return one entry; raises `Corrupt` or `UnsafeEntry` if what is said of it cannot be."""
        return self._made.get(index) or self._work_out(self._places[index], self.paths[index])

    @property
    def size(self) -> int:
        """The bytes of all files, as they are claimed."""
        return sum(self._sizes())

    @property
    def data(self) -> int:
        """The bytes of all files but for holes, as they are claimed."""
        return self.size - sum(chunk.size for made in self._made.values() for chunk in made.chunks if chunk.zeros)

    def _sizes(self) -> Iterator[int]:
        return (self._records[place].size for place in self._places)

    def _work_out(self, place: int, path: str) -> Entry:
        record = self._records[place]
        try:
            return _entry(record, path, self._chunks(record, place) if record.size else ())
        except (Corrupt, UnsafeEntry) as error:
            raise type(error)(error.what, where=self._named(path)) from error

    def _named(self, name: str) -> str:
        return f"{self._where}: {name[:200]!r}" if self._where else repr(name[:200])

    def _chunks(self, record: Record, place: int) -> tuple[Chunk, ...]:
        """Return a file's chunks, which have to follow one another up to its end, inside the blob."""
        records, apart, limit = self._records, self._apart, self._limit
        chunks: list[Chunk] = []
        start = 0
        single = True
        one: Record | None = record
        while one is not None:
            place += 1
            following = records[place] if place < len(records) and records[place].type == "chunk" else None
            single = single and following is None
            size = (record.size if following is None else following.chunk_offset) - start
            if not apart:
                end = self._end_after(one.offset)
            elif following is not None:
                end = following.offset
            else:
                end = record.end_offset or self._end_after(one.offset)
            zeros = one.chunk_type == "zeros"
            digest = "" if zeros else digest_of(one.chunk_digest or (record.digest if single else ""), "")
            if (
                one.chunk_offset != start
                or size <= 0
                or one.chunk_size not in (0, size)
                or not 0 <= one.offset < end <= limit
            ):
                raise Corrupt("its chunks do not fit together")
            inner = 0 if apart else one.inner_offset
            chunks.append(Chunk(one.offset, end - one.offset, start, size, digest, zeros, inner))
            start += size
            one = following
        return tuple(chunks)

    def _end_after(self, offset: int) -> int:
        """Return where the frame or piece ends that begins at `offset`, where a table does not say: the next begins."""
        if self._ends is None:
            self._ends = sorted({record.offset for record in self._records if record.offset} | {self._limit})
        index = bisect_right(self._ends, offset)
        return self._ends[index] if index < len(self._ends) else 0


def _entry(record: Record, path: str, chunks: tuple[Chunk, ...]) -> Entry:
    kind = cast(Kind, record.type)
    if not path and kind != "dir":
        raise UnsafeEntry(f"a {kind} in the place of the root")
    if len(path) > MAX_NAME or (record.size and kind != "reg"):
        raise Corrupt(f"a {kind} of {record.size} bytes under a name of {len(path)}")
    check_owner(record.uid, record.gid, "")
    return Entry(
        path=path,
        kind=kind,
        mode=record.mode & 0o7777,
        uid=record.uid,
        gid=record.gid,
        size=record.size,
        mtime_ns=_time_ns(record.modtime) if record.modtime else 0,
        link=_link(record, kind) if kind in ("symlink", "hardlink") else "",
        dev=check_device(record.dev_major, record.dev_minor, "") if kind in ("char", "block") else (0, 0),
        xattrs=_xattrs(record) if record.xattrs or record.xattrs_raw else {},
        digest=_content_digest(record, chunks) if record.size else "",
        chunks=chunks,
    )


def _content_digest(record: Record, chunks: tuple[Chunk, ...]) -> str:
    if record.digest and chunks[0].digest == record.digest:  # most files are one chunk, whose digest was looked at
        return record.digest
    return digest_of(record.digest, "")


def _link(record: Record, kind: Kind) -> str:
    link = _decoded(record.link_name_raw, record.link_name, "")
    if not link or "\0" in link or len(link) > MAX_NAME:
        raise Corrupt(f"a link to {link[:200]!r}")
    if kind == "symlink":
        return link
    link = clean_archive_path(link, "")
    if not link:
        raise UnsafeEntry("a hard link to the root")
    return link


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


def _xattrs(record: Record) -> dict[str, bytes]:
    xattrs = {xattr_name(_utf8(name, "")): _bytes(value, "") for name, value in record.xattrs.items()}
    for name, value in record.xattrs_raw.items():
        xattrs[xattr_name(_bytes(name, ""))] = _bytes(value, "")
    return xattrs


def _time_ns(text: str) -> int:
    """Return an RFC 3339 time in nanoseconds; the year 1's beginning, Go's zero, is none: 0."""
    match = _TIME.fullmatch(text)
    if not match:
        raise Corrupt(f"not a time: {text[:40]!r}")
    if text == _ZERO_TIME:
        return 0
    date, fraction, zone = match.groups("")
    try:
        seconds = _seconds(date, zone)
    except ValueError as error:
        raise Corrupt(f"not a time: {text[:40]!r}") from error
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


@lru_cache(maxsize=4096)
def _seconds(date: str, zone: str) -> int:
    moment = datetime.fromisoformat(date + ("+00:00" if zone == "Z" else zone))
    return (moment - _EPOCH) // _SECOND
