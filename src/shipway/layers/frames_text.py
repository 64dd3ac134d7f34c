"""Text in zstd frames that is read from any place on, without all of it being there at once."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Self

import zstandard

from shipway.layers.compressing import PIECE, Compressing, decompressed_pieces
from shipway.trees.entry import Buffer
from shipway.trees.spool import Spool

LARGEST = 2 * PIECE
"""Most bytes that a frame may hold that is taken as it is."""
_KEPT = 2
"""Frames that are kept as they are read."""
_HEADER = 18
_BLOCK = 3
_CHECKSUM = 4
_RLE = 1


class FramesText:
    """A text that was decompressed without errors before. Thread-safe."""

    def __init__(self, frames: Spool, places: list[tuple[int, int]]) -> None:
        """Read `frames`, each of which ends at one of `places`: in the frames, and in the text."""
        self._frames = frames
        ends = array("Q", [0, *(end for end, _ in places)])
        self._starts = array("Q", [0, *(end for _, end in places)])
        """Where in the text each frame begins, and where the last one ends."""
        self._plain = lru_cache(_KEPT)(partial(_decompressed, frames, ends, self._starts))

    @classmethod
    def of(cls, frames: Buffer) -> Self | None:
        """Return the text that frames hold as they are, or None where these are too large for that."""
        spool = Spool(frames)
        places = frame_places(spool)
        return cls(spool, places) if places is not None else None

    @classmethod
    def made(cls, text: Iterable[Buffer]) -> Self:
        """Return a text that is to be compressed for this."""
        packed = Compressing(1)
        for piece in text:
            for start in range(0, len(piece), PIECE):
                packed.add(piece[start : start + PIECE])
        frames = packed.finish()
        places = frame_places(frames)
        assert places is not None  # of pieces of this size
        return cls(frames, places)

    def read(self, start: int, end: int) -> bytes:
        """Return what is from one place in the text up to another."""
        pieces = []
        number = bisect_right(self._starts, start) - 1
        while start < end:
            base = self._starts[number]
            pieces.append(self._plain(number)[start - base : end - base])
            number += 1
            start = self._starts[number]
        return b"".join(pieces)

    def frame(self, number: int) -> bytes:
        """Return what one of the frames holds; raises `zstandard.ZstdError` if the text was not decompressed before."""
        return self._plain(number)

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self._starts) - 1

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, piece by piece."""
        return decompressed_pieces(self._frames)


def _decompressed(frames: Spool, ends: Sequence[int], starts: Sequence[int], number: int) -> bytes:
    size = starts[number + 1] - starts[number]
    return zstandard.ZstdDecompressor().decompress(frames.read(ends[number], ends[number + 1]), max_output_size=size)


def frame_places(frames: Spool) -> list[tuple[int, int]] | None:
    """Return where frames end, in the frames and in their text (RFC 8878, section 3.1.1).

    None if that is not said, or a frame holds more than `LARGEST` bytes.
    """
    places: list[tuple[int, int]] = []
    at = text = 0
    while at < len(frames):
        head = frames.read(at, min(at + _HEADER, len(frames)))
        if head[:4] != zstandard.FRAME_HEADER:
            return None
        try:
            size = zstandard.frame_content_size(head)
            checksum = zstandard.get_frame_parameters(head).has_checksum
            at += zstandard.frame_header_size(head)
        except zstandard.ZstdError:
            return None
        if not 0 <= size <= LARGEST:
            return None
        last = False
        while not last:
            block = int.from_bytes(frames.read(at, min(at + _BLOCK, len(frames))), "little")
            last = bool(block & 1)
            at += _BLOCK + (1 if block >> 1 & 3 == _RLE else block >> 3)
            if at > len(frames):
                return None
        at += _CHECKSUM if checksum else 0
        text += size
        places.append((at, text))
    return places
