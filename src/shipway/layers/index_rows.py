"""What an index says of a layer's entries: rows, a few hundred in a zstd frame, which are read where somebody looks."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec
import zstandard

from shipway.errors import Corrupt
from shipway.layers.frames_text import LARGEST, FramesText
from shipway.layers.passing import Extent
from shipway.layers.tar import MAX_NAME
from shipway.trees.entry import Chunk, Entry, Kind, clean_archive_path
from shipway.trees.listing import Listing
from shipway.trees.paths import PackedKinds, PackedPaths
from shipway.trees.spool import Spool

_ROWS = 512
"""Most rows in a frame."""
_SIZE = 256 << 10
"""Bytes of rows after which a frame is full."""
_LEVEL = 3
_KEPT = 4
"""Frames that are kept as they are read."""
_SHA256 = 32
_PREFIX = "sha256:"
_LINKS = ("symlink", "hardlink")
NOT_AN_INDEX = (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is raised where frames hold something else."""


class Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """One entry, and where in the archive its content is."""

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    dev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    size: int = 0
    digest: bytes = b""
    extents: tuple[Extent, ...] = ()


def row_of(entry: Entry, digest: str, extents: Sequence[Extent]) -> Row:
    """Return the row of an entry whose content, if it has any, has the sha256 `digest`."""
    return Row(
        os.fsencode(entry.path),
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        os.fsencode(entry.link),
        entry.dev,
        {os.fsencode(name): value for name, value in entry.xattrs.items()} if entry.xattrs else {},
        entry.size,
        bytes.fromhex(digest.removeprefix(_PREFIX)),
        tuple(extents),
    )


class Span(NamedTuple):
    """Where a span is in the archive and in the blob, how long it is in each, and the digest of what it holds."""

    plain: int
    offset: int
    length: int
    size: int
    digest: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Row])


class Rows:
    """The rows of an index on their way into it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._frames = Spool()
        self._last = bytearray()
        self._inside = 0

    def add(self, row: Row) -> bool:
        """Take a row; return whether an index can hold it. Raises `OverflowError` for numbers that are none."""
        _encoder.encode_into(row, self._last, -1)
        self._inside += 1
        return (self._inside < _ROWS and len(self._last) < _SIZE) or self._compress()

    def _compress(self) -> bool:
        fits = len(self._last) < LARGEST
        self._frames.add(frame_of(bytes([0xDC, *self._inside.to_bytes(2, "big")]) + self._last))
        self._last.clear()
        self._inside = 0
        return fits

    @property
    def size(self) -> int:
        """The bytes of the frames so far."""
        return len(self._frames)

    def finish(self) -> Spool:
        """Return the frames, to which more may be added that are none of rows."""
        if self._inside:
            self._compress()
        return self._frames


def frame_of(data: bytes) -> bytes:
    """Return a zstd frame that says how long what it holds is."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


class IndexRows(Listing):
    """The entries of an index, of which paths and kinds are known, and the others worked out when they are looked at.

    For that the rows of a frame are decoded again; a few frames' are kept.
    """

    def __init__(self, text: FramesText, count: int, spans: Sequence[Span], where: str) -> None:
        """List what the first `count` frames of `text` say of an archive that `spans` are.

        Raises `Corrupt` or `UnsafeEntry` for paths and sizes that cannot be, and what of `NOT_AN_INDEX` comes.
        """
        self._spans = spans
        self._starts = array("Q", (span.plain for span in spans))
        self._where = where
        self._rows = lru_cache(_KEPT)(partial(_decoded, text))
        self._firsts = array("I")
        """The number of each frame's first row."""
        self._last: tuple[int, Sequence[Row]] = 0, ()
        """The rows that were looked into last, and the number of the first."""
        self._size = self._data = 0
        self.kinds = PackedKinds()
        self.paths = PackedPaths(map(self._list, range(count)))

    def _list(self, frame: int) -> list[str]:
        """Return the paths of a frame's entries, and note all else."""
        self._firsts.append(len(self.kinds))
        paths: list[str] = []
        for row in self._rows(frame):
            path = os.fsdecode(row.path)
            named = self._named(path)
            if path != clean_archive_path(path, named) or len(path) > MAX_NAME:
                raise Corrupt("a name that no entry has", where=named)
            data = sum(length for _, _, length in row.extents)
            if not 0 <= data <= row.size or (row.size and row.kind != "reg"):
                raise Corrupt("an entry that cannot be", where=named)
            self._size += row.size
            self._data += data
            self.kinds.append(row.kind)
            paths.append(path)
        return paths

    def entry(self, index: int) -> Entry:
        """Return one entry; raises `Corrupt` or `UnsafeEntry` if what is said of it cannot be."""
        first, rows = self._last
        if not 0 <= index - first < len(rows):
            frame = bisect_right(self._firsts, index) - 1
            first, rows = self._last = self._firsts[frame], self._rows(frame)
        return self._work_out(rows[index - first])

    def _work_out(self, row: Row) -> Entry:
        path, link = os.fsdecode(row.path), os.fsdecode(row.link)
        named = self._named(path)
        if row.kind == "hardlink" and link != clean_archive_path(link, named):
            raise Corrupt("a link to a name that no entry has", where=named)
        if len(link) > MAX_NAME or bool(link) != (row.kind in _LINKS):
            raise Corrupt("an entry that cannot be", where=named)
        if row.size and len(row.digest) != _SHA256:
            raise Corrupt("a file without a digest", where=named)
        digest = _PREFIX + row.digest.hex() if row.size else ""
        return Entry(
            path=path,
            kind=row.kind,
            mode=row.mode & 0o7777,
            uid=row.uid,
            gid=row.gid,
            size=row.size,
            mtime_ns=row.mtime_ns,
            link=link,
            dev=row.dev,
            xattrs={os.fsdecode(name): value for name, value in row.xattrs.items()},
            digest=digest,
            chunks=tuple(self._chunks(row, digest, named)) if row.size else (),
        )

    def _chunks(self, row: Row, digest: str, where: str) -> Iterator[Chunk]:
        """Yield a file's chunks: what of each span is its own, and the holes between."""
        done = 0
        spans, starts = self._spans, self._starts
        end = starts[-1] + spans[-1].size if spans else 0
        for start, place, length in row.extents:
            if start < done or length <= 0 or place < 0 or place + length > end or start + length > row.size:
                raise Corrupt("its content cannot be where it is said to be", where=where)
            if start > done:
                yield Chunk(0, 0, done, start - done, "", zeros=True)
            done = start
            while done < start + length:
                at = place + done - start
                span = spans[bisect_right(starts, at) - 1]
                inner = at - span.plain
                size = min(span.size - inner, start + length - done)
                whole = digest if size == row.size else ""
                yield Chunk(span.offset, span.length, done, size, whole, inner=inner)
                done += size
        if done < row.size:
            yield Chunk(0, 0, done, row.size - done, "", zeros=True)

    def _named(self, path: str) -> str:
        return f"{self._where}: {path[:200]!r}"

    @property
    def size(self) -> int:
        """The bytes of all files, as they are claimed."""
        return self._size

    @property
    def data(self) -> int:
        """The bytes of all files but for holes, as they are claimed."""
        return self._data


def _decoded(text: FramesText, frame: int) -> list[Row]:
    return _decoder.decode(text.frame(frame))
