"""A decompressed stream, looked at through buffers of whole tar blocks."""

from __future__ import annotations

from collections.abc import Iterator

from shipway.errors import Truncated
from shipway.layers.compression import ByteSource
from shipway.layers.headers import BLOCK
from shipway.trees.entry import Buffer

BUFFER_SIZE = 1 << 20
"""Bytes of a buffer: a multiple of the block size, so that no header is cut in two."""
HOLE = 64 << 10
"""Aligned blocks of this many zero bytes are holes."""
ZEROS = bytes(HOLE)

Filled = tuple[bytearray, int]
"""A buffer and how many bytes of it are filled; all but the last of a stream are full."""


def filled(source: ByteSource) -> Iterator[Filled]:
    """Yield all of `source` in one buffer, used again each time."""
    buffer = bytearray(BUFFER_SIZE)
    while size := source.readinto(memoryview(buffer)):
        yield buffer, size


class Blocks:
    """Where a reader is in a stream of buffers.

    `buffer[position:end]` has not been read yet. Views handed out are valid
    until anything else is asked for. `left` is what is unread of the content begun last, `base` where
    in the stream the buffer begins.
    """

    __slots__ = ("_source", "base", "buffer", "end", "left", "position", "view")

    def __init__(self, source: Iterator[Filled]) -> None:
        """Start at the beginning of `source`."""
        self._source = source
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
        self.position = self.end = self.left = self.base = 0

    @property
    def place(self) -> int:
        """How many bytes of the stream were read."""
        return self.base + self.position

    def refill(self) -> bool:
        """Turn to the next buffer, once this one is read; return whether there was one."""
        for buffer, size in self._source:
            if size:
                self.buffer, self.view = buffer, memoryview(buffer)
                self.base += self.end
                self.position, self.end = 0, size
                return True
        self.base += self.end
        self.position = self.end = 0
        return False

    def take(self, size: int, where: str) -> memoryview:
        """Return the next `size` bytes in one piece; `Truncated` if there are fewer."""
        start = self.position
        if size <= self.end - start:
            self.position = start + size
            return self.view[start : start + size]
        whole = bytearray(size)
        done = 0
        while done < size:
            if self.position == self.end and not self.refill():
                raise Truncated(f"ended after {done} of {size} bytes", where=where)
            part = min(size - done, self.end - self.position)
            whole[done : done + part] = self.view[self.position : self.position + part]
            self.position += part
            done += part
        return memoryview(whole)

    def skip(self, size: int, where: str) -> None:
        """Pass over `size` bytes; `Truncated` if there are fewer."""
        while size > self.end - self.position:
            size -= self.end - self.position
            if not self.refill():
                raise Truncated("ended inside an entry", where=where)
        self.position += size

    def content(self, size: int, where: str) -> Iterator[Buffer | int]:
        """Yield `size` bytes, of the `left` ones, of a file in pieces, long runs of zeros as their length."""
        offset = 0
        while offset < size:
            if self.position == self.end and not self.refill():
                raise Truncated(f"content ended {size - offset} bytes early", where=where)
            start = self.position
            part = min(size - offset, self.end - start)
            self.position += part
            self.left -= part
            yield from self._runs(start, start + part, offset)
            offset += part

    def _runs(self, start: int, end: int, offset: int) -> Iterator[Buffer | int]:
        """Yield `buffer[start:end]`, which is at `offset` of its file, with the holes in it as lengths.

        The pieces of a block that two buffers share are looked at each for itself.
        """
        buffer, data = self.buffer, start
        at, stop = start, min(start + HOLE - offset % HOLE, end)
        while at < end:
            if buffer.startswith(ZEROS if stop - at == HOLE else ZEROS[: stop - at], at):
                if data < at:
                    yield self.view[data:at]
                while stop < end and buffer.startswith(ZEROS, stop):
                    stop += HOLE
                stop = min(stop, end)
                yield stop - at
                data = stop
            at, stop = stop, min(stop + HOLE, end)
        if data < end:
            yield self.view[data:end]


def padding(size: int) -> int:
    """Return how many bytes fill `size` up to whole blocks."""
    return -size % BLOCK
