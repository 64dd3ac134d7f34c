"""Reading a blob from its beginning in a way that tells where it could have been entered later.

gzip has to be told by the inflater (`inflate`); zstd can be entered at each of its frames, whose headers and
blocks say how long they are (RFC 8878, section 3.1.1); an archive that is not compressed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Protocol, cast

import zstandard

from shipway.errors import Corrupt, Truncated
from shipway.layers import inflate
from shipway.layers.compression import ByteSource, Compression, Pieces, decompressed
from shipway.layers.inflate import CheckpointingGzip, Point
from shipway.trees.entry import Buffer

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_DICTIONARY = (0, 1, 2, 4)
_SIZE = (0, 2, 4, 8)
_RLE, _RESERVED = 1, 3


class Checkpointing(ByteSource, Protocol):
    """A stream of bytes that takes notes of where it could be entered."""

    points: list[Point]
    """The checkpoints so far, in order; whoever wants to may take them away, but the last."""


def checkpointing(pieces: Iterator[Buffer], compression: Compression, spacing: int, where: str) -> Checkpointing | None:
    """Return what `pieces` decompress to, with a checkpoint every `spacing` bytes or as the format allows.

    None if that cannot be done here. Errors are those of `decompressed`.
    """
    if compression is Compression.GZIP:
        return CheckpointingGzip(pieces, spacing, where) if inflate.available() else None
    if compression is Compression.ZSTD:
        return _Zstd(pieces, spacing, where)
    return _Plain(pieces, spacing)


class _Plain:
    def __init__(self, pieces: Iterator[Buffer], spacing: int) -> None:
        self.points: list[Point] = []
        self._source = decompressed(pieces, Compression.UNCOMPRESSED)
        self._spacing = spacing
        self._done = 0

    def readinto(self, buffer: memoryview, /) -> int:
        size = self._source.readinto(buffer)
        first = -(-self._done // self._spacing) * self._spacing
        self._done += size
        self.points += [Point(place, 0, place, b"") for place in range(first, self._done, self._spacing)]
        return size


class _Zstd:
    def __init__(self, pieces: Iterator[Buffer], spacing: int, where: str) -> None:
        self.points: list[Point] = []
        self._cutter = _Cutter(pieces, where)
        self._spacing = spacing
        self._where = where
        self._plain = 0
        self._decompressor = zstandard.ZstdDecompressor()
        self._reader: zstandard.ZstdDecompressionReader | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        done = 0
        try:
            while done < len(buffer):
                if self._reader is None and not self._next_frame():
                    break
                assert self._reader is not None
                size = self._reader.readinto(buffer[done:])
                if not size:
                    self._reader = None
                done += size
                self._plain += size
        except zstandard.ZstdError as error:
            raise Corrupt(f"not zstd data: {error}", where=self._where) from error
        return done

    def _next_frame(self) -> bool:
        frame = self._cutter.next_frame()
        if frame is None:
            return False
        if not self.points or self._plain - self.points[-1].plain >= self._spacing:
            self.points.append(Point(self._cutter.start, 0, self._plain, b""))
        pieces = cast(IO[bytes], Pieces(frame))  # of a file object only `read` is used
        self._reader = self._decompressor.stream_reader(pieces)
        return True


class _Cutter:
    """Cuts a blob into its zstd frames, by what their headers say."""

    def __init__(self, pieces: Iterator[Buffer], where: str) -> None:
        self.start = 0
        """Where the frame begins that was asked for last."""
        self._pieces = pieces
        self._where = where
        self._buffer = b""
        self._at = 0
        self._taken = 0
        self._present: Iterator[bytes] = iter(())

    def next_frame(self) -> Iterator[bytes] | None:
        """Return the bytes of the next frame with content, None at the end; the rest of the one before is dropped."""
        for _ in self._present:
            pass
        while self._fill(1):
            self.start = self._taken
            magic = int.from_bytes(self._take(4), "little")
            if magic == _MAGIC:
                self._present = self._frame()
                return self._present
            if magic & ~0xF != _SKIPPABLE:
                raise Corrupt("not zstd data: a frame of an unknown kind", where=self._where)
            left = int.from_bytes(self._take(4), "little")
            while left:
                part = min(left, 1 << 20)
                self._take(part)
                left -= part
        return None

    def _frame(self) -> Iterator[bytes]:
        (flags,) = head = self._take(1)
        single, checksum = flags >> 5 & 1, flags >> 2 & 1
        size = _SIZE[flags >> 6] or single
        yield _MAGIC.to_bytes(4, "little") + head + self._take((not single) + _DICTIONARY[flags & 3] + size)
        last = False
        while not last:
            head = self._take(3)
            block = int.from_bytes(head, "little")
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            if kind == _RESERVED:
                raise Corrupt("not zstd data: a block of an unknown kind", where=self._where)
            yield head + self._take(1 if kind == _RLE else size)
        if checksum:
            yield self._take(4)

    def _fill(self, size: int) -> bool:
        """Have `size` bytes in the buffer; return False if there are none any more."""
        while len(self._buffer) - self._at < size:
            piece = next(self._pieces, None)
            if piece is None:
                if self._at < len(self._buffer):
                    raise Truncated("zstd data ends inside a frame", where=self._where)
                return False
            self._buffer = self._buffer[self._at :] + bytes(piece)
            self._at = 0
        return True

    def _take(self, size: int) -> bytes:
        if size and not self._fill(size):
            raise Truncated("zstd data ends inside a frame", where=self._where)
        taken = self._buffer[self._at : self._at + size]
        self._at += size
        self._taken += size
        return taken
