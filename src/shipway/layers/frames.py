"""Compressing a batch of tar bytes into pieces that each can be decompressed alone.

What a piece compresses to depends on its bytes alone: so the blob is the same however many threads
share the work. Another release of libzstd may give other blobs, never another DiffID.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, cast

import zstandard
from isal import igzip

from shipway.errors import Invalid
from shipway.layers.compression import Compression
from shipway.trees.entry import Buffer

_ZEROS = 1 << 20
_LEVELS = {
    Compression.ZSTD_CHUNKED: (3, range(1, 23)),
    Compression.ZSTD: (3, range(1, 23)),
    Compression.GZIP: (2, range(4)),
    Compression.ESTARGZ: (2, range(4)),
    Compression.UNCOMPRESSED: (0, range(1)),
}


class Frames(Protocol):
    """Compresses slices of a buffer; not for two threads at a time."""

    def compress(self, buffer: bytearray, bounds: Sequence[tuple[int, int]]) -> list[Buffer]:
        """Return one frame for each (start, end) of `buffer`; they may be views of it."""


def frames(compression: Compression, level: int | None) -> Frames:
    """Return the compressor for a level; `Invalid` for one that the compression has not."""
    usual, levels = _LEVELS[compression]
    level = usual if level is None else level
    if level not in levels:
        raise Invalid(
            f"{compression} has no level {level}", todo=f"choose one from {levels.start} to {levels.stop - 1}"
        )
    if compression in (Compression.GZIP, Compression.ESTARGZ):
        return _Gzip(level)
    if compression is Compression.UNCOMPRESSED:
        return _Plain()
    return _Zstd(level)


@lru_cache(maxsize=64)
def _zero_frame(compression: Compression, level: int | None, size: int) -> bytes:
    return bytes(frames(compression, level).compress(bytearray(size), [(0, size)])[0])


def zeros(compression: Compression, level: int | None, size: int) -> list[Buffer]:
    """Return frames that decompress to `size` zero bytes; most of them are one and the same object."""
    whole, rest = divmod(size, _ZEROS)
    made: list[Buffer] = [_zero_frame(compression, level, _ZEROS)] * whole
    return [*made, _zero_frame(compression, level, rest)] if rest else made


class _Zstd:
    def __init__(self, level: int) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)

    def compress(self, buffer: bytearray, bounds: Sequence[tuple[int, int]]) -> list[Buffer]:
        if not bounds:
            return []
        segments = array("Q")
        for start, end in bounds:
            segments.append(start)
            segments.append(end - start)
        source = zstandard.BufferWithSegments(buffer, segments.tobytes())
        made = self._compressor.multi_compress_to_buffer(source, threads=1)
        return cast(list[Buffer], [made[index] for index in range(len(made))])


class _Gzip:
    def __init__(self, level: int) -> None:
        self._level = level

    def compress(self, buffer: bytearray, bounds: Sequence[tuple[int, int]]) -> list[Buffer]:
        view = memoryview(buffer)
        return [igzip.compress(view[start:end], self._level, mtime=0) for start, end in bounds]


class _Plain:
    def compress(self, buffer: bytearray, bounds: Sequence[tuple[int, int]]) -> list[Buffer]:
        view = memoryview(buffer)
        return [view[start:end] for start, end in bounds]
