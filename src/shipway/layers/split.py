"""Where large files are cut: at boundaries that their content decides, and around their holes.

Chunks are cut by FastCDC with the parameters of the Bazel remote execution
API (FastCdc2020Params), so that equal content is cut equally in other files,
layers and programs. What does not compress is cut finer within these: it costs
nothing there, and less has to move when something changes; elsewhere it would make
blobs much larger. Aligned blocks of zeros are holes wherever they are: the result
depends on the content alone, not on how a file system stores it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard
from pyfastcdc import FastCDC

from shipway.errors import SizeMismatch, Truncated
from shipway.layers.blocks import HOLE, ZEROS

WHOLE = 2 << 20
"""Files smaller than this are one chunk; no chunk is larger."""
_MIN = 128 << 10
_AVERAGE = 512 << 10
_FINE_MIN, _FINE_AVERAGE, _FINE_MAX = 16 << 10, 64 << 10, 256 << 10
_SAMPLE = 16 << 10
"""Bytes from the middle of a chunk that tell whether it compresses."""


@dataclass(frozen=True, slots=True)
class Part:
    """The next `size` bytes of a file: at `start` of the buffer, or a hole if that is -1."""

    start: int
    size: int

    @property
    def is_hole(self) -> bool:
        """Whether these bytes are zeros that are in no buffer."""
        return self.start < 0


class Splitter:
    """Reads one large file through buffers of the caller's, and cuts it.

    Call `fill` with one buffer after the other until `done`. Raises `Truncated` or
    `SizeMismatch` if the file does not have the size it should have.
    """

    def __init__(self, fd: int, size: int, where: str, *, base: int | None = None) -> None:
        """Read `size` bytes of `fd`, which stays the caller's; `where` names the file in errors.

        With `base` the content is a part of that file, from there on.
        """
        self._fd = fd
        self._base = base or 0
        self._is_part = base is not None
        self._size = size
        self._where = where
        self._cdc = FastCDC(_AVERAGE, min_size=_MIN, max_size=WHOLE, normalized_chunking=2, seed=0)
        self._fine = FastCDC(_FINE_AVERAGE, min_size=_FINE_MIN, max_size=_FINE_MAX, normalized_chunking=2, seed=0)
        self._trial = zstandard.ZstdCompressor(level=1)
        self._offset = 0
        self._carry = b""
        """The beginning of a chunk whose end is not known yet; it ends at `_offset`."""
        self._hole = 0

    @property
    def done(self) -> bool:
        """Whether the file has been read to its end."""
        return self._offset >= self._size and not self._carry and not self._hole

    def fill(self, buffer: bytearray) -> list[Part]:
        """Read on into `buffer` and return the parts it then has, in order."""
        parts: list[Part] = []
        view = memoryview(buffer)
        start, data = 0, len(self._carry)
        buffer[:data] = self._carry
        self._carry = b""
        if zeros := self._zeros_on_disk():
            self._cut(view, start, data, parts)
            self._hole += zeros
            self._offset += zeros
            start = data
        end = self._read(view, data)
        last = self._offset >= self._size
        for begin, stop, is_hole in _runs(buffer, start, data, end):
            if is_hole:
                self._hole += stop - begin
            elif stop < end or last:
                self._cut(view, begin, stop, parts)
            else:
                rest = self._cut(view, begin, stop, parts, open_ended=True)
                self._carry = bytes(view[rest:stop])
        if last:
            self._end_hole(parts)
            self._check_end()
        return parts

    def _zeros_on_disk(self) -> int:
        """Return how many bytes, in whole blocks, from here on are zero without having to be read."""
        if self._offset >= self._size:
            return 0
        try:
            data = os.lseek(self._fd, self._base + self._offset, os.SEEK_DATA) - self._base
        except OSError as error:
            # ENXIO: a hole up to the end. Anything else: a file system that knows nothing of holes.
            data = self._size if error.errno == errno.ENXIO else self._offset
        if data >= self._size:
            return self._size - self._offset
        return (data - self._offset) // HOLE * HOLE

    def _read(self, buffer: memoryview, start: int) -> int:
        """Fill `buffer` from `start` on up to a whole block of the file; return where it ends."""
        room = len(buffer) - start
        want = min(self._size - self._offset, room // HOLE * HOLE)
        end = start + want
        while start < end:
            read = os.preadv(self._fd, [buffer[start:end]], self._base + self._offset)
            if not read:
                raise Truncated(f"shrank to {self._offset} of {self._size} bytes", where=self._where)
            start += read
            self._offset += read
        return end

    def _cut(self, buffer: memoryview, start: int, stop: int, parts: list[Part], *, open_ended: bool = False) -> int:
        """Add the chunks of a run to `parts`; return where the first one that is not certain yet starts."""
        if start < stop:
            self._end_hole(parts)
        for chunk in self._cdc.cut_buf(buffer[start:stop]):
            at = start + chunk.offset
            if open_ended and at + chunk.length == stop and chunk.length < WHOLE:
                return at
            parts += self._finer(buffer, at, chunk.length)
        return stop

    def _finer(self, buffer: memoryview, start: int, size: int) -> list[Part]:
        """Return a chunk as it is, or cut finer if it does not compress."""
        middle = start + max(size - _SAMPLE, 0) // 2
        sample = buffer[middle : min(middle + _SAMPLE, start + size)]
        if len(self._trial.compress(sample)) < len(sample) * 9 // 10:
            return [Part(start, size)]
        return [Part(start + one.offset, one.length) for one in self._fine.cut_buf(buffer[start : start + size])]

    def _end_hole(self, parts: list[Part]) -> None:
        if self._hole:
            parts.append(Part(-1, self._hole))
            self._hole = 0

    def _check_end(self) -> None:
        if self._is_part:
            return
        size = os.fstat(self._fd).st_size
        if size < self._size:
            raise Truncated(f"shrank to {size} of {self._size} bytes", where=self._where)
        if size > self._size:
            raise SizeMismatch(f"grew beyond {self._size} bytes", where=self._where)


def _runs(buffer: bytearray, start: int, at: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield `buffer[start:end]` as runs of data and of holes; the blocks that may be holes begin at `at`."""
    while at < end:
        stop = min(at + HOLE, end)
        if not buffer.startswith(ZEROS if stop - at == HOLE else ZEROS[: stop - at], at):
            at = stop
            continue
        if start < at:
            yield start, at, False
        yield at, stop, True
        start = at = stop
    if start < end:
        yield start, end, False
