"""The table of contents that is made of a layer which has none, when all of it was read once.

It says of each file where in the archive its content is, and of the blob where it can be entered: *spans* of
some megabytes, each with what is needed to inflate it alone and with the digest of what comes out. So whoever
trusts an index can check all that is read by it; and whether to trust one is not for this module to say: an index is
bound to a blob by who made it after the blob's digest was checked, or by a digest of the index itself.

It is zstd frames, each with an array in MessagePack: rows of entries (`index_rows`), then spans, then the head. So it
is read a frame at a time, and kept in memory as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import msgspec
import zstandard

from shipway import oci
from shipway.errors import Corrupt
from shipway.layers.checkpoints import Checkpointing, checkpointing
from shipway.layers.chunked import MAX_TABLE
from shipway.layers.compression import Compression, compression_of
from shipway.layers.contents import MAX_FRAME, Fetch
from shipway.layers.digests import FILLED, is_sha256
from shipway.layers.frames_text import FramesText, frame_places
from shipway.layers.index_rows import NOT_AN_INDEX, IndexRows, Rows, Span, frame_of, row_of
from shipway.layers.inflate import Point, inflate_from
from shipway.layers.passing import Extent
from shipway.layers.toc import first_bytes
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry
from shipway.trees.listing import Listing
from shipway.trees.spool import Spool

MEDIA_TYPE = "application/vnd.shipway.layer.index.v2"
_VERSION = 2
_LEAST, _MOST = 1 << 20, 8 << 20
_SPANS = 1024
_MAX_PLAIN = 1 << 30
_MAX_LENGTH = 2 * MAX_FRAME
_TOGETHER = 16
"""Spans in a frame."""
_KEPT = 2
"""Frames of spans that are kept as they are read."""
_MOST_WINDOW = 64 << 10
_PREFIX = "sha256:"


class _Entrance(msgspec.Struct, array_like=True, gc=False):
    """Where a span begins, and what inflates it."""

    offset: int
    """Where its bytes begin in the blob. They end where the next span's begin, or in the byte that both have."""
    bits: int
    plain: int
    digest: bytes
    window: bytes


class _Head(msgspec.Struct, array_like=True):
    version: int
    blob: str
    size: int
    plain: int
    spans: int
    """How many frames of spans there are."""


_encode = msgspec.msgpack.Encoder().encode
_head_decoder = msgspec.msgpack.Decoder(_Head)
_entrances_decoder = msgspec.msgpack.Decoder(list[_Entrance])


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
        self._spans: list[_Entrance] = []
        self._hash = hashlib.sha256()
        self._plain = 0
        self._seen = 0
        self._windows = 0
        self._rows = Rows()

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
        self._spans.append(_Entrance(point.offset, point.bits, point.plain, b"", window))

    def _end(self) -> None:
        if self._spans:
            self._spans[-1].digest = self._hash.digest()
        self._hash = hashlib.sha256()

    def _give_up(self) -> None:
        self.listening = False
        self._rows = Rows()

    def add(self, entry: Entry, digest: str, extents: Sequence[Extent] = ()) -> None:
        """Take the next entry of the archive, the digest of its content, and where that is; see `Watcher`."""
        if not self.listening:
            return
        if entry.size and not is_sha256(digest):
            self._give_up()
            return
        try:
            room = self._rows.add(row_of(entry, digest, extents)) and self._rows.size <= MAX_TABLE
        except OverflowError:  # a time that is none
            room = False
        if not room:
            self._give_up()

    def finish(self) -> Spool | None:
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
        data = self._rows.finish()
        head = _Head(
            _VERSION, self._descriptor.digest, self._descriptor.size, self._plain, -(-len(self._spans) // _TOGETHER)
        )
        for start in range(0, len(self._spans), _TOGETHER):
            data.add(frame_of(_encode(self._spans[start : start + _TOGETHER])))
        data.add(frame_of(_encode(head)))
        return data if len(data) <= MAX_TABLE else None


def _widest(places: Sequence[int]) -> int:
    return max((end - start for start, end in pairwise(places)), default=0)


class Index:
    """An index of a layer; implements `Contents`. Its table is not in the blob but given."""

    is_stored = False

    def __init__(self, data: Spool, descriptor: Descriptor) -> None:
        """Take an index of the layer `descriptor`; it is read, and checked for sense, by `parse`."""
        self.digest = data.digest()
        self.data = data
        self._descriptor = descriptor
        self._compression = compression_of(descriptor.media_type)
        self._spans: Sequence[Span] = ()
        self._numbers: dict[int, int] = {}
        """The numbers of spans, by where they are in the blob."""
        self._entrances: Callable[[int], list[_Entrance]] = _nothing

    def fetch(self, read: Fetch, where: str) -> bytes:  # noqa: ARG002  of the contract
        """Return the index."""
        return b"".join(self.data.pieces())

    def parse(self, table: Buffer, where: str) -> Listing:
        """Return the entries; see `Contents.parse`."""
        oci.check_match(oci.sha256(table), self.digest, where)
        try:
            text, head = _opened(Spool(table), self._descriptor, where)
            rows = len(text) - 1 - head.spans
            entrances = lru_cache(_KEPT)(partial(_entrances, text, rows))
            spans = list(_spans(map(entrances, range(head.spans)), self._descriptor.size, head.plain, where))
            found = IndexRows(text, rows, spans, where)
        except NOT_AN_INDEX as error:
            raise Corrupt(f"not an index: {error}", where=where) from error
        self._numbers = {span.offset: number for number, span in enumerate(spans)}
        self._spans, self._entrances = spans, entrances
        return found

    def inflate(self, data: Buffer, chunk: Chunk, where: str) -> bytes:
        """Return what a span holds, checked against its digest."""
        number = self._numbers[chunk.offset]
        span = self._spans[number]
        if self._compression is Compression.GZIP:
            frame, place = divmod(number, _TOGETHER)
            entrance = self._entrances(frame)[place]
            point = Point(entrance.offset, entrance.bits, entrance.plain, _window(entrance))
            plain = inflate_from(point, data, span.size, where)
        elif self._compression is Compression.ZSTD:
            plain = first_bytes(data, span.size, where)
        else:
            plain = bytes(data)
        oci.check_match(oci.sha256(plain), span.digest, where)
        return plain

    def span(self, chunk: Chunk) -> Chunk | None:
        """Return the span that a chunk is in; None for a hole."""
        if chunk.zeros:
            return None
        span = self._spans[self._numbers[chunk.offset]]
        return Chunk(chunk.offset, chunk.length, 0, span.size, span.digest)


def is_readable(data: Spool, descriptor: Descriptor) -> bool:
    """Return whether `data` is, as its head says, an index of a layer, and of the kind that is read here."""
    try:
        _opened(data, descriptor, "")
    except (Corrupt, *NOT_AN_INDEX):
        return False
    return True


def _opened(data: Spool, descriptor: Descriptor, where: str) -> tuple[FramesText, _Head]:
    """Return an index as text, and its head, which has to fit."""
    places = frame_places(data)
    if not places or places[-1][1] > _MAX_PLAIN:
        raise Corrupt("not an index: frames of unknown sizes", where=where)
    text = FramesText(data, places)
    head = _head_decoder.decode(text.frame(len(text) - 1))
    if (head.version, head.blob, head.size) != (_VERSION, descriptor.digest, descriptor.size):
        raise Corrupt("an index of something else", where=where)
    if not 0 <= head.spans < len(text):
        raise Corrupt("not an index: it lacks spans", where=where)
    return text, head


def _nothing(frame: int) -> list[_Entrance]:
    raise KeyError(frame)


def _entrances(text: FramesText, rows: int, frame: int) -> list[_Entrance]:
    return _entrances_decoder.decode(text.frame(rows + frame))


def _spans(groups: Iterator[list[_Entrance]], blob_size: int, plain_size: int, where: str) -> Iterator[Span]:
    """Yield the spans, which have to follow one another through the whole blob, without what inflates them."""
    wrong = Corrupt("its spans do not fit together", where=where)
    places: list[tuple[int, int, int, bytes]] = []
    for group in groups:
        if len(places) % _TOGETHER:
            raise wrong
        for one in group:
            _window(one)
            places.append((one.offset, one.bits, one.plain, one.digest))
    ends = (blob_size, 0, plain_size, b"")
    for (offset, bits, plain, digest), (end, more, plain_end, _) in pairwise([*places, ends]):
        length, size = end + (more > 0) - offset, plain_end - plain
        if not (
            0 <= offset < offset + length <= min(blob_size, offset + _MAX_LENGTH + 1)
            and 0 < size <= MAX_FRAME
            and 0 <= bits < 8  # noqa: PLR2004  bits of a byte
            and (offset > places[0][0] or not plain)
        ):
            raise wrong
        yield Span(plain, offset, length, size, _PREFIX + digest.hex())


def _window(entrance: _Entrance) -> bytes:
    """Return the last of what came out before an entrance; raises `zstandard.ZstdError`."""
    if not entrance.window:
        return b""
    if not 0 <= zstandard.frame_content_size(entrance.window) <= _MOST_WINDOW:
        raise zstandard.ZstdError("a window that is too large")
    return zstandard.ZstdDecompressor().decompress(entrance.window)
