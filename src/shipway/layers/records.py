"""The records of tables of contents, as zstd:chunked and eStargz have them, become entries."""

from __future__ import annotations

import os
import re
from array import array
from binascii import a2b_base64
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import chain, islice, takewhile, zip_longest
from typing import get_args

from shipway.errors import Corrupt, UnsafeEntry
from shipway.layers.chunked import Record
from shipway.layers.frames_text import FramesText
from shipway.layers.numbers import check_device, check_owner
from shipway.layers.pax import xattr_name
from shipway.layers.seen import Seen
from shipway.layers.table_text import Text, batches, records_in
from shipway.layers.tar import MAX_NAME
from shipway.layers.whiteouts import may_be_whiteout, whiteout
from shipway.trees.entry import Buffer, Chunk, Entry, Kind, clean_archive_path
from shipway.trees.listing import Listing
from shipway.trees.paths import PackedKinds, PackedPaths

_CHANGES = frozenset({"whiteout", "opaque"})
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind) if kind not in _CHANGES}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_USUAL_TIME = len("2000-01-01T00:00:00.123456789Z")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_EPOCH = datetime.fromtimestamp(0, UTC)
_SECOND = timedelta(seconds=1)
_PART = 64 << 10
"""Bytes of text that are decoded to look at one entry."""
_KEPT = 4
"""Decoded parts that are kept."""
_PATHS = 512
"""Paths that are packed at a time."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _Table:
    """What the text of a table says, whose files lie in the blob's first `limit` bytes.

    Chunks are compressed `apart`, or several may be in one piece. Raises `Corrupt` or `UnsafeEntry` for
    paths and kinds that cannot be, and for files of several chunks that do not fit together.
    """

    def __init__(self, text: Text, limit: int, where: str, *, apart: bool = True) -> None:
        """Read `text`; `where` names the table in errors."""
        self._text = text
        self._limit = limit
        self._where = where
        self._apart = apart
        self._ends: Sequence[int] = ()

    def _records(self) -> Iterator[Record]:
        return chain.from_iterable(batch.records for batch in batches(self._text(), self._where))

    def _placed(self, record: Record, more: Sequence[Record]) -> tuple[str, Kind, Entry | None] | None:
        """Return the path and kind of an entry, and itself if it is a removal; None for what is to be passed over."""
        kind = _KINDS.get(record.type)
        if kind is None or (more and kind != "reg"):
            raise Corrupt(f"an entry of the unknown type {record.type[:20]!r}", where=self._where)
        path = self._path(record)
        if may_be_whiteout(path):
            change = whiteout(path, self._named(path))
            return (change.path, change.kind, change) if change is not None else None
        return path, kind, None

    def _path(self, record: Record) -> str:
        name = record.name
        if record.name_raw or not name.isascii():
            name = _decoded(record.name_raw, name, self._where)
        try:
            return clean_archive_path(name, "")
        except UnsafeEntry as error:
            raise UnsafeEntry(error.what, where=self._where) from error

    def _check_exactly(self, entries: Iterable[tuple[str, Kind]]) -> None:
        """Raise `Corrupt` if anything is there twice; a change and a file at one path are two things."""
        seen: set[tuple[str, str]] = set()
        for path, kind in entries:
            key = (path, kind if kind in _CHANGES else "")
            if key in seen:
                raise Corrupt("twice in the table of contents", where=self._named(path))
            seen.add(key)

    def _work_out(self, record: Record, more: Sequence[Record], path: str) -> Entry:
        try:
            return _entry(record, path, self._chunks(record, more) if record.size else ())
        except (Corrupt, UnsafeEntry) as error:
            raise type(error)(error.what, where=self._named(path)) from error

    def _named(self, name: str) -> str:
        return f"{self._where}: {name[:200]!r}" if self._where else repr(name[:200])

    def _chunks(self, record: Record, more: Sequence[Record]) -> tuple[Chunk, ...]:
        """Return a file's chunks, which have to follow one another up to its end, inside the blob."""
        apart = self._apart
        if not more:  # as nearly all
            end = (record.end_offset if apart else 0) or self._end_after(record.offset)
            return (self._chunk(record, 0, record.size, end, record.chunk_digest or record.digest),)
        chunks: list[Chunk] = []
        start = 0
        for one, following in zip_longest((record, *more), more):
            size = (record.size if following is None else following.chunk_offset) - start
            if not apart:
                end = self._end_after(one.offset)
            elif following is not None:
                end = following.offset
            else:
                end = record.end_offset or self._end_after(one.offset)
            chunks.append(self._chunk(one, start, size, end, one.chunk_digest))
            start += size
        return tuple(chunks)

    def _chunk(self, one: Record, start: int, size: int, end: int, digest: str) -> Chunk:
        """Return a chunk of `size` bytes from `start` of its file on, which in the blob ends at `end`."""
        zeros = one.chunk_type == "zeros"
        digest = "" if zeros else digest_of(digest, "")
        offset = one.offset
        if (
            one.chunk_offset != start
            or size <= 0
            or one.chunk_size not in (0, size)
            or not 0 <= offset < end <= self._limit
        ):
            raise Corrupt("its chunks do not fit together")
        return Chunk(offset, end - offset, start, size, digest, zeros, 0 if self._apart else one.inner_offset)

    def _end_after(self, offset: int) -> int:
        """Return where the frame or piece ends that begins at `offset`, where a table does not say: the next begins."""
        if not self._ends:
            offsets = array("Q", (record.offset for record in self._records() if record.offset))
            offsets.append(self._limit)
            self._ends = array("Q", sorted(offsets))
        index = bisect_right(self._ends, offset)
        return self._ends[index] if index < len(self._ends) else 0


class TableEntries(_Table):
    """The entries of a table in its order, all of them worked out and checked as they are asked for, and none kept.

    That anything is there twice is found out at the end.
    """

    def __iter__(self) -> Iterator[Entry]:
        seen = Seen()
        for entry in self._entries():
            seen.add(hash(entry.path) ^ (entry.kind in _CHANGES))
            yield entry
        if seen.twice():
            self._check_exactly((entry.path, entry.kind) for entry in self._entries())

    def _entries(self) -> Iterator[Entry]:
        for record, more in _groups(self._records()):
            placed = self._placed(record, more)
            if placed is not None:
                path, _, change = placed
                yield change or self._work_out(record, more, path)


class TableListing(_Table, Listing):
    """The entries of a table, of which paths and kinds are known, and the others worked out when they are looked at.

    For that the part of the text in which they stand is decoded again; a few of these parts are kept.
    """

    def __init__(self, text: Text, limit: int, where: str, *, apart: bool = True, frames: Buffer = b"") -> None:
        """List what a table says; see `_Table`. `frames` is the text compressed, if it is there."""
        super().__init__(text, limit, where, apart=apart)
        self._parts = array("Q")
        """From where to where in the text the records of each part stand."""
        self._firsts = array("I")
        """The number of each part's first record."""
        self._numbers = array("I")
        """The number of each entry's record."""
        self._has_more = False
        """Whether any file has several chunks."""
        self._last: tuple[int, Sequence[Record]] = 0, ()
        """The part that was looked into last, and the number of its first record."""
        self._size = self._zeros = 0
        self.kinds = PackedKinds()
        self.paths = PackedPaths(self._list())
        self._check_exactly((self.paths[index], self.kinds[index]) for index in self.paths.twice())
        stored = (FramesText.of(frames) if frames else None) or FramesText.made(text())
        self._text = stored.pieces
        self._part = lru_cache(_KEPT)(partial(_decoded_part, stored, self._parts))

    def _list(self) -> Iterator[list[str]]:
        """Yield the paths, and note all else."""
        paths: list[str] = []
        number = 0
        for record, more in _groups(chain.from_iterable(self._noted())):
            placed = self._placed(record, more)
            if placed is not None:
                path, kind, change = placed
                if change is None and (more or record.chunk_type):
                    chunks = self._work_out(record, more, path).chunks
                    self._zeros += sum(chunk.size for chunk in chunks if chunk.zeros)
                paths.append(path)
                self.kinds.append(kind)
                self._numbers.append(number)
                self._size += record.size
                if len(paths) == _PATHS:
                    yield paths
                    paths = []
            if more:
                self._has_more = True
            number += 1 + len(more)
        yield paths

    def _noted(self) -> Iterator[list[Record]]:
        """Yield the records, and note where they stand."""
        count = 0
        for start, end, records in batches(self._text(), self._where, _PART):
            self._parts.extend((start, end))
            self._firsts.append(count)
            count += len(records)
            yield records

    def entry(self, index: int) -> Entry:
        """Return one entry; raises `Corrupt` or `UnsafeEntry` if what is said of it cannot be."""
        number = self._numbers[index]
        first, records = self._last
        if not 0 <= number - first < len(records):
            part = bisect_right(self._firsts, number) - 1
            first, records = self._last = self._firsts[part], self._part(part)
        record, path = records[number - first], self.paths[index]
        if self.kinds[index] in _CHANGES:
            change = whiteout(self._path(record), self._named(path))
            assert change is not None  # or it would not be one
            return change
        return self._work_out(record, self._more(number + 1) if self._has_more else (), path)

    def _more(self, number: int) -> Sequence[Record]:
        """Return the records of further chunks, where the next record is the one with this number."""
        part = bisect_right(self._firsts, number) - 1
        following = chain.from_iterable(map(self._part, range(part, len(self._firsts))))
        return list(takewhile(lambda one: one.type == "chunk", islice(following, number - self._firsts[part], None)))

    @property
    def size(self) -> int:
        """The bytes of all files, as they are claimed."""
        return self._size

    @property
    def data(self) -> int:
        """The bytes of all files but for holes, as they are claimed."""
        return self._size - self._zeros


def _decoded_part(text: FramesText, parts: Sequence[int], number: int) -> list[Record]:
    return records_in(text.read(*parts[2 * number : 2 * number + 2]))


def _groups(records: Iterable[Record]) -> Iterator[tuple[Record, Sequence[Record]]]:
    """Yield the record of each entry, with those of its further chunks."""
    record: Record | None = None
    more: list[Record] = []
    for one in records:
        if one.type == "chunk" and record is not None:
            more.append(one)
            continue
        if record is not None:
            yield record, more
            more = []
        record = one
    if record is not None:
        yield record, more


def _entry(record: Record, path: str, chunks: tuple[Chunk, ...]) -> Entry:
    kind, size = _KINDS[record.type], record.size
    if not path and kind != "dir":
        raise UnsafeEntry(f"a {kind} in the place of the root")
    if len(path) > MAX_NAME or (size and kind != "reg"):
        raise Corrupt(f"a {kind} of {size} bytes under a name of {len(path)}")
    check_owner(record.uid, record.gid, "")
    return Entry(
        path=path,
        kind=kind,
        mode=record.mode & 0o7777,
        uid=record.uid,
        gid=record.gid,
        size=size,
        mtime_ns=_time_ns(record.modtime) if record.modtime else 0,
        link=_link(record, kind) if kind in ("symlink", "hardlink") else "",
        dev=check_device(record.dev_major, record.dev_minor, "") if kind in ("char", "block") else (0, 0),
        xattrs=_xattrs(record) if record.xattrs or record.xattrs_raw else {},
        digest=_content_digest(record, chunks) if size else "",
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
    fraction = text[20:29]
    if len(text) == _USUAL_TIME and text[19] == "." and text[29] == "Z" and fraction.isascii() and fraction.isdecimal():
        return _usual_seconds(text[:19]) + int(fraction)
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
def _usual_seconds(date: str) -> int:
    """Return the nanoseconds of a time without its fraction and zone."""
    return _time_ns(date + "Z") if date + "Z" != _ZERO_TIME else _seconds(date, "Z") * 1_000_000_000


@lru_cache(maxsize=4096)
def _seconds(date: str, zone: str) -> int:
    moment = datetime.fromisoformat(date + ("+00:00" if zone == "Z" else zone))
    return (moment - _EPOCH) // _SECOND
