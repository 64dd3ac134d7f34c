"""Text that is kept compressed while it grows, to be read again later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import zstandard

from shipway.trees.entry import Buffer

PIECE = 1 << 20
"""Bytes of text compressed, or read again, at a time."""


class Compressing:
    """Text that is compressed, in one frame after the other, while it grows.

    The frames are kept in one piece: many that stay, between large buffers that come and go, made the heap three times
    as large.
    """

    def __init__(self, level: int) -> None:
        """Begin with no text; `level` is zstd's."""
        self.size = 0
        """Bytes of text so far."""
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self._frames = bytearray()
        self._pending: list[Buffer] = []
        self._limit = PIECE

    def add(self, text: Buffer) -> None:
        """Take more text, which stays as it is for now."""
        self._pending.append(text)
        self.size += len(text)
        if self.size > self._limit:
            self._compress()

    def _compress(self) -> None:
        self._frames += self._compressor.compress(b"".join(self._pending))
        self._pending = []
        self._limit = self.size + PIECE

    def finish(self) -> bytearray:
        """Return all of it, compressed; no more may be added then."""
        if self._pending:
            self._compress()
        return self._frames

    def pieces(self) -> Iterator[bytes]:
        """Yield the text, which is finished, piece by piece."""
        return decompressed_pieces(self.finish())


def decompressed_pieces(frames: Buffer) -> Iterator[bytes]:
    """Yield what zstd frames hold, piece by piece; raises `zstandard.ZstdError`, and ends early if they do."""
    reader = zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True)
    return iter(partial(reader.read, PIECE), b"")
