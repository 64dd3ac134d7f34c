"""The table of contents that is made of a layer which has none, when all of it was read once.

It says of each file where in the archive its content is, and of the blob where it can be entered: *spans* of
some megabytes, each with what is needed to inflate it alone and with the digest of what comes out. So whoever
trusts an index can check all that is read by it; and whether to trust one is not for this module to say: an index is
bound to a blob by who made it after the blob's digest was checked, or by a digest of the index itself.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import msgspec
import zstandard

from shipway import oci
from shipway.errors import Corrupt
from shipway.layers.checkpoints import Checkpointing, checkpointing
from shipway.layers.chunked import MAX_TABLE
from shipway.layers.compression import Compression, compression_of
from shipway.layers.contents import MAX_FRAME, Fetch
from shipway.layers.digests import FILLED, is_sha256
from shipway.layers.inflate import Point, inflate_from
from shipway.layers.passing import Extent
from shipway.layers.tar import MAX_NAME
from shipway.layers.toc import first_bytes
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry, Kind, clean_archive_path
from shipway.trees.listing import Listed, Listing

MEDIA_TYPE = "application/vnd.shipway.layer.index.v1"
_VERSION = 1
_LEAST, _MOST = 1 << 20, 8 << 20
_SPANS = 1024
_MAX_PLAIN = 1 << 30
_MAX_LENGTH = 2 * MAX_FRAME
_ROWS = 8 << 20
"""Bytes of rows that are compressed at a time while an index is made."""
_PREFIX = "sha256:"
_LINKS = ("symlink", "hardlink")


class _Span(msgspec.Struct, array_like=True, gc=False):
    offset: int
    """Where its bytes begin in the blob. They end where the next span's begin, or in the byte that both have."""
    bits: int
    plain: int
    digest: bytes
    window: bytes


class _Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
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


class _Document(msgspec.Struct, array_like=True):
    version: int
    blob: str
    size: int
    plain: int
    spans: list[_Span]
    rows: list[_Row]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Document)


def spacing(descriptor: Descriptor) -> int:
    """Return how many bytes a span of a layer should have, so that there are not too many."""
    return min(max(_LEAST, descriptor.size // _SPANS), _MOST)


def indexed(pieces: Iterator[Buffer], descriptor: Descriptor, where: str) -> IndexBuilder | None:
    """Return what a layer's `pieces` decompress to, of which an index is made; None where that cannot be done.

    Errors are those of `decompressed`.
    """
    source = checkpointing(pieces, compression_of(descriptor.media_type, where), spacing(descriptor), where)
    return IndexBuilder(source, descriptor) if source is not None else None


class IndexBuilder:
    """A layer's decompressed bytes, passed on as a `ByteSource`, and what an index of it will be made of.

    It is a `Watcher` of the archive that these bytes are; one thread may read while another tells of entries.
    """

    extents = True
    room = FILLED

    def __init__(self, source: Checkpointing, descriptor: Descriptor) -> None:
        """Read from `source`, which has not been read yet."""
        self.listening = True
        """Whether there may still be an index."""
        self._source = source
        self._descriptor = descriptor
        self._spans: list[_Span] = []
        self._hash = hashlib.sha256()
        self._plain = 0
        self._seen = 0
        self._windows = 0
        self._rows = _Rows()

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer`; see `ByteSource`."""
        size = self._source.readinto(buffer)
        points = self._source.points
        if self.listening:
            self._take(buffer[:size], points[self._seen :])
        else:
            self._spans.clear()
        del points[:-1]  # their windows are kept here, smaller
        self._seen = len(points)
        return size

    def _take(self, data: memoryview, points: Sequence[Point]) -> None:
        done = 0
        for point in points:
            upto = point.plain - self._plain
            self._hash.update(data[done:upto])
            done = upto
            self._begin(point)
        self._hash.update(data[done:])
        self._plain += len(data)
        if self._plain - (self._spans[-1].plain if self._spans else 0) > MAX_FRAME or self._windows > MAX_TABLE:
            self._give_up()

    def _begin(self, point: Point) -> None:
        self._end()
        window = zstandard.ZstdCompressor(level=3).compress(point.window) if point.window else b""
        self._windows += len(window)
        self._spans.append(_Span(point.offset, point.bits, point.plain, b"", window))

    def _end(self) -> None:
        if self._spans:
            self._spans[-1].digest = self._hash.digest()
        self._hash = hashlib.sha256()

    def _give_up(self) -> None:
        self.listening = False
        self._rows = _Rows()

    def add(self, entry: Entry, digest: str, extents: Sequence[Extent] = ()) -> None:
        """Take the next entry of the archive, the digest of its content, and where that is; see `Watcher`."""
        if not self.listening:
            return
        if entry.size and not is_sha256(digest):
            self._give_up()
            return
        row = _Row(
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
        try:
            room = self._rows.add(row)
        except OverflowError:  # a time that is none
            room = False
        if not room:
            self._give_up()

    def finish(self) -> bytes | None:
        """Return the index, once the archive was read to its end and the blob's digest checked.

        None if the blob cannot be entered but at its beginning, or an index would be larger than is taken.
        """
        if not self.listening:
            return None
        self._end()
        bounds = [*(span.plain for span in self._spans), self._plain]
        places = [*(span.offset for span in self._spans), self._descriptor.size]
        if not self._spans or self._spans[0].plain or _widest(bounds) > MAX_FRAME or _widest(places) > _MAX_LENGTH:
            return None
        fields = (_VERSION, self._descriptor.digest, self._descriptor.size, self._plain, self._spans)
        return self._rows.document(fields)


class _Rows:
    """The rows of an index on their way into it, encoded, and compressed when they are many."""

    def __init__(self) -> None:
        self._last = bytearray()
        self._packed: list[bytes] = []
        self._count = self._size = self._packed_size = 0

    def add(self, row: _Row) -> bool:
        """Take a row; return whether there may be room for all. Raises `OverflowError` for numbers that are none."""
        _encoder.encode_into(row, self._last, -1)
        self._count += 1
        if len(self._last) >= _ROWS:
            self._size += len(self._last)
            self._packed.append(zstandard.ZstdCompressor(level=1).compress(self._last))
            self._packed_size += len(self._packed[-1])
            self._last = bytearray()
        return self._size <= _MAX_PLAIN and self._packed_size <= MAX_TABLE

    def document(self, fields: Sequence[object]) -> bytes | None:
        """Return the index of these rows after `fields`, the others of a `_Document`; None if it is too large."""
        # An array of all fields, the last an array whose length has four bytes.
        head = bytes([0x90 | len(fields) + 1, *b"".join(map(_encoder.encode, fields)), 0xDD])
        head += self._count.to_bytes(4, "big")
        size = len(head) + self._size + len(self._last)
        if size > _MAX_PLAIN:
            return None
        packing = zstandard.ZstdCompressor(level=3).compressobj(size=size)
        unpacked = (zstandard.ZstdDecompressor().decompress(piece) for piece in self._packed)
        data = b"".join([*map(packing.compress, chain([head], unpacked, [bytes(self._last)])), packing.flush()])
        return data if len(data) <= MAX_TABLE else None


def _widest(places: Sequence[int]) -> int:
    return max((end - start for start, end in pairwise(places)), default=0)


class _Frame(NamedTuple):
    """A span as it is read: the point it begins at, how long it is in the blob and in the archive, its digest."""

    point: Point
    length: int
    size: int
    digest: str


class Index:
    """An index of a layer; implements `Contents`. Its table is not in the blob but given."""

    is_stored = False

    def __init__(self, data: bytes, descriptor: Descriptor) -> None:
        """Take an index of the layer `descriptor`; it is read, and checked for sense, by `parse`."""
        self.digest = oci.sha256(data)
        self.data = data
        self._descriptor = descriptor
        self._compression = compression_of(descriptor.media_type)
        self._frames: dict[int, _Frame] = {}

    def fetch(self, read: Fetch, where: str) -> bytes:  # noqa: ARG002  of the contract
        """Return the index."""
        return self.data

    def parse(self, table: bytes, where: str) -> Listing:
        """Return the entries; see `Contents.parse`."""
        oci.check_match(oci.sha256(table), self.digest, where)
        try:
            size = zstandard.frame_content_size(table)
            if not 0 <= size <= _MAX_PLAIN:
                raise Corrupt(f"an index of {size} bytes", where=where)
            document = _decoder.decode(zstandard.ZstdDecompressor().decompress(table))
            frames = list(_frames(document, self._descriptor, where))
        except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Corrupt(f"not an index: {error}", where=where) from error
        self._frames = {frame.point.offset: frame for frame in frames}
        starts = [frame.point.plain for frame in frames]
        return Listed([_entry(row, frames, starts, where) for row in document.rows])

    def inflate(self, data: Buffer, chunk: Chunk, where: str) -> bytes:
        """Return what a span holds, checked against its digest."""
        frame = self._frames[chunk.offset]
        if self._compression is Compression.GZIP:
            plain = inflate_from(frame.point, data, frame.size, where)
        elif self._compression is Compression.ZSTD:
            plain = first_bytes(data, frame.size, where)
        else:
            plain = bytes(data)
        oci.check_match(oci.sha256(plain), frame.digest, where)
        return plain


def _frames(document: _Document, descriptor: Descriptor, where: str) -> Iterator[_Frame]:
    """Yield the spans, which have to follow one another through the whole blob."""
    if (document.version, document.blob, document.size) != (_VERSION, descriptor.digest, descriptor.size):
        raise Corrupt("an index of something else", where=where)
    spans = document.spans
    for number, span in enumerate(spans):
        following = spans[number + 1] if number + 1 < len(spans) else None
        end = descriptor.size if following is None else following.offset + (following.bits > 0)
        size = (document.plain if following is None else following.plain) - span.plain
        if not (
            0 <= span.offset < end <= min(descriptor.size, span.offset + _MAX_LENGTH + 1)
            and 0 < size <= MAX_FRAME
            and 0 <= span.bits < 8  # noqa: PLR2004  bits of a byte
            and (number or not span.plain)
        ):
            raise Corrupt("its spans do not fit together", where=where)
        window = zstandard.ZstdDecompressor().decompress(span.window, max_output_size=1 << 16) if span.window else b""
        point = Point(span.offset, span.bits, span.plain, window)
        yield _Frame(point, end - span.offset, size, _PREFIX + span.digest.hex())


def _entry(row: _Row, frames: Sequence[_Frame], starts: Sequence[int], where: str) -> Entry:
    path, link = os.fsdecode(row.path), os.fsdecode(row.link)
    named = f"{where}: {path[:200]!r}"
    if path != clean_archive_path(path, named) or (row.kind == "hardlink" and link != clean_archive_path(link, named)):
        raise Corrupt("a name that no entry has", where=named)
    if max(len(path), len(link)) > MAX_NAME or bool(link) != (row.kind in _LINKS) or (row.size and row.kind != "reg"):
        raise Corrupt("an entry that cannot be", where=named)
    if row.size < 0 or (row.size and len(row.digest) != 32):  # noqa: PLR2004  bytes of a sha256
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
        chunks=tuple(_chunks(row, digest, frames, starts, named)) if row.size else (),
    )


def _chunks(row: _Row, digest: str, frames: Sequence[_Frame], starts: Sequence[int], where: str) -> Iterator[Chunk]:
    """Yield a file's chunks: what of each span is its own, and the holes between."""
    done = 0
    end = starts[-1] + frames[-1].size if frames else 0
    for start, place, length in row.extents:
        if start < done or length <= 0 or place < 0 or place + length > end or start + length > row.size:
            raise Corrupt("its content cannot be where it is said to be", where=where)
        if start > done:
            yield Chunk(0, 0, done, start - done, "", zeros=True)
        done = start
        while done < start + length:
            at = place + done - start
            frame = frames[bisect_right(starts, at) - 1]
            inner = at - frame.point.plain
            size = min(frame.size - inner, start + length - done)
            whole = digest if size == row.size else ""
            yield Chunk(frame.point.offset, frame.length, done, size, whole, inner=inner)
            done += size
    if done < row.size:
        yield Chunk(0, 0, done, row.size - done, "", zeros=True)
