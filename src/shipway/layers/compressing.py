"""Text that is kept compressed while it grows, to be read again later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO, cast

import zstandard

from shipway.layers.compression import Pieces
from shipway.trees.entry import Buffer
from shipway.trees.spool import Spool

PIECE = 1 << 20
"""Bytes of text compressed, or read again, at a time."""


class Compressing:
    """Text that is compressed, in one frame after the other, while it grows."""

    def __init__(self, level: int) -> None:
        """Begin with no text; `level` is zstd's."""
        self.size = 0
        """Bytes of text so far."""
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self._frames = Spool()
        self._pending: list[Buffer] = []
        self._limit = PIECE

    def add(self, text: Buffer) -> None:
        """Take more text, which stays as it is for now."""
        self._pending.append(text)
        self.size += len(text)
        if self.size > self._limit:
            self._compress()

    def _compress(self) -> None:
        self._frames.add(self._compressor.compress(b"".join(self._pending)))
        self._pending = []
        self._limit = self.size + PIECE

    def finish(self) -> Spool:
        """Return all of it, compressed; no more may be added then."""
        if self._pending:
            self._compress()
        return self._frames

    def pieces(self) -> Iterator[bytes]:
        """Yield the text, which is finished, piece by piece."""
        return decompressed_pieces(self.finish())


def decompressed_pieces(frames: Buffer | Spool) -> Iterator[bytes]:
    """Yield what zstd frames hold, piece by piece; raises `zstandard.ZstdError`, and ends early if they do."""
    source = cast(IO[bytes], Pieces(frames.pieces())) if isinstance(frames, Spool) else frames  # only `read` is used
    reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
    return iter(partial(reader.read, PIECE), b"")
