"""A file of a remote layer as a seekable binary file: only the chunks that are read are fetched.

A read that goes on where the last one ended is taken for the beginning of many: then chunks are fetched ahead, twice
as far each time, and at last in one request up to the end, which is read as it is needed. What one large read
needs is fetched together too. Any other read fetches the one chunk it begins in.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import BinaryIO, cast

from shipway.transfer.ranges import REQUEST_COST
from shipway.trees.entry import Buffer, Chunk, Entry

CACHED = 16 << 20
"""Bytes of content that one open file keeps; a single chunk that is larger is kept while it is read."""
FIRST_AHEAD = 256 << 10
MAX_AHEAD = 4 << 20
"""Bytes of content that the first and later reads in order fetch beyond what they need, before it is all of them."""
BUFFER = 64 << 10

ReadChunks = Callable[[Sequence[Chunk]], Generator[bytes, None, None]]
"""Yields the checked contents of chunks that follow one another in a blob, for one request."""


def open_chunks(entry: Entry, read_chunks: ReadChunks, done: Callable[[], None]) -> BinaryIO:
    """Return the content of a file with chunks as a buffered file that calls `done` when it is closed."""
    return cast(BinaryIO, io.BufferedReader(_ChunkFile(entry, read_chunks, done), BUFFER))


class _ChunkFile(io.RawIOBase):
    """A file whose content is chunks, which may be holes. Used by one thread at a time."""

    def __init__(self, entry: Entry, read_chunks: ReadChunks, done: Callable[[], None]) -> None:
        self._done = done
        self.name = "/" + entry.path
        self._size = entry.size
        self._chunks = entry.chunks
        self._starts = [chunk.start for chunk in entry.chunks]
        self._read_chunks = read_chunks
        self._position = 0
        self._expected = -1
        """Where a read begins that goes on where the last one ended."""
        self._ahead = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        """Contents by number of chunk, the one used last at the end."""
        self._cached = 0
        self._stream: Generator[bytes, None, None] | None = None
        """The chunks from `_next` on, if the file is being read up to its end."""
        self._next: deque[int] = deque()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Buffer, /) -> int:  # type: ignore[override]  # typeshed's Buffer needs Python 3.12
        """Fill `buffer` up to the end of the chunk at the present position at most, and return how far."""
        self._check()
        out = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(out):
            return 0
        number = bisect_right(self._starts, self._position) - 1
        chunk = self._chunks[number]
        skip = self._position - chunk.start
        count = min(len(out), chunk.size - skip)
        if chunk.zeros:
            out[:count] = bytes(count)
        else:
            content = self._content(number, len(out) - count if len(out) > BUFFER else 0)
            out[:count] = memoryview(content)[skip : skip + count]
        self._position += count
        self._expected = self._position
        return count

    def readall(self) -> bytes:
        """Return all from the present position on."""
        pieces = []
        piece = bytearray(MAX_AHEAD)
        while count := self.readinto(piece):
            pieces.append(bytes(memoryview(piece)[:count]))
        return b"".join(pieces)

    def close(self) -> None:
        self._leave_stream()
        self._cache.clear()
        self._done()
        super().close()

    def _leave_stream(self) -> None:
        self._next.clear()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _content(self, number: int, needed: int) -> bytes:
        """Return the content of a chunk; if it is not at hand it is fetched, and what is ahead of it.

        `needed` says how many bytes behind it are asked for already.
        """
        if number not in self._cache and not self._take_next(number):
            self._leave_stream()
            in_order = self._position == self._expected
            self._ahead = max(self._ahead * 2, FIRST_AHEAD) if in_order else 0
            if self._ahead > MAX_AHEAD:
                self._next.extend(self._run(number, self._size))
                self._stream = self._fetch(self._next)
                self._take_next(number)
            else:
                wanted = self._run(number, max(self._ahead, min(needed, MAX_AHEAD)))
                with closing(self._fetch(wanted)) as contents:
                    for one, content in zip(wanted, contents, strict=True):
                        self._keep(one, content)
        self._cache.move_to_end(number)
        while self._cached > CACHED and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
        return self._cache[number]

    def _take_next(self, number: int) -> bool:
        """Take a chunk from the stream, and say whether it is the one that is next there."""
        if self._stream is None or not self._next or self._next[0] != number:
            return False
        try:
            content = next(self._stream)
        except BaseException:
            self._leave_stream()
            raise
        self._keep(self._next.popleft(), content)
        return True

    def _keep(self, number: int, content: bytes) -> None:
        self._cache[number] = content
        self._cached += len(content)

    def _fetch(self, numbers: Iterable[int]) -> Generator[bytes, None, None]:
        return self._read_chunks([self._chunks[number] for number in numbers])

    def _run(self, first: int, ahead: int) -> list[int]:
        """Return the numbers of chunks to fetch in one request: `first`, and `ahead` bytes that lie behind it."""
        numbers, end = [first], self._chunks[first].offset + self._chunks[first].length
        for number in range(first + 1, len(self._chunks)):
            chunk = self._chunks[number]
            ahead -= chunk.size
            if ahead < 0 or not 0 <= chunk.offset - end <= REQUEST_COST or number in self._cache:
                break
            if not chunk.zeros:
                numbers.append(number)
                end = chunk.offset + chunk.length
        return numbers
