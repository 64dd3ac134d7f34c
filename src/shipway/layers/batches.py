"""The pipeline behind packing: batches of tar bytes are hashed, compressed and written in order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, Self

from fastcrc import crc64

from shipway import oci
from shipway.layers.blocks import HOLE, ZEROS
from shipway.layers.compression import Compression, media_type
from shipway.layers.estargz_table import StargzWriter
from shipway.layers.frames import Frames, frames, zeros
from shipway.layers.output import write_all
from shipway.layers.split import WHOLE, Part
from shipway.layers.table import FileContent, LayerTable, TableWriter
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry

BATCH_SIZE = 4 << 20
_ZEROS_CHUNK = 1 << 20
Member = tuple[Entry, str, int, int]
"""An entry, its archive name, and where in the batch the raw bytes before its content start and end."""


class Batch:
    """A buffer of tar bytes: either members with all their content, or `parts` of one large file.

    A large file's header is the last member of the batch before its parts.
    """

    def __init__(self) -> None:
        """Make an empty one."""
        self.buffer = bytearray(BATCH_SIZE)
        self.view = memoryview(self.buffer)
        self.clear()

    def clear(self) -> None:
        """Make it empty again."""
        self.used = 0
        self.members: list[Member] = []
        self.parts: list[Part] = []

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return BATCH_SIZE - self.used

    def append(self, data: bytes) -> int:
        """Put `data` at the end; return where it starts."""
        start = self.used
        self.used = start + len(data)
        self.buffer[start : self.used] = data
        return start

    def contents(self) -> Iterator[Buffer]:
        """Yield the tar bytes in order, as few pieces as there can be: each costs a hasher Python's lock twice."""
        if not self.parts:
            yield self.view[: self.used]
        for part in _joined(self.parts):
            if part.is_hole:
                yield from _zeros(part.size)
            else:
                yield self.view[part.start : part.start + part.size]


def _zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // HOLE):
        yield ZEROS
    yield ZEROS[: size % HOLE]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A batch compressed: its frames, and digest and CRC of each piece of content in it."""

    frames: list[Buffer]
    digests: list[str]
    checksums: list[int]
    parts: list[Part] = field(default_factory=list)
    """Of a large file, what each frame holds."""


class _Content:
    """The digest and CRC of a large file so far."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.crc = 0

    def update(self, batch: Batch) -> None:
        for piece in batch.contents():
            self.hash.update(piece)
            self.crc = crc64.go_iso(piece, self.crc)


class Pipeline:
    """Hashes, compresses and writes batches; a context manager that stops its threads.

    The caller fills the batch that `batch()` returns and gives it to `submit`, until
    `finish()`. Errors of the threads come out of one of these three.
    """

    def __init__(self, out: BinaryIO, compression: Compression, level: int | None, threads: int, where: str) -> None:
        """Write to `out` from now on; `where` names it in errors."""
        self._where = where
        self._out = out
        self._compression = compression
        self._level = level
        self._codecs = [frames(compression, level) for _ in range(threads)]
        self._table = _new_table(compression, level)
        self._hasher = ThreadPoolExecutor(1, "pack-hash")
        self._digester = ThreadPoolExecutor(1, "pack-digest")
        self._compressors = ThreadPoolExecutor(threads, "pack-compress")
        self._writer = ThreadPoolExecutor(1, "pack-write")
        self._free = [Batch() for _ in range(threads + 3)]
        self._pending: deque[tuple[Batch, Future[None]]] = deque()
        self._diff = hashlib.sha256()
        self._diff_size = 0
        self._blob = hashlib.sha256()
        self._blob_size = 0
        self._content: _Content | None = None
        self._large: tuple[Entry, str, bytes] | None = None
        self._chunks: list[Chunk] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for executor in (self._compressors, self._hasher, self._digester, self._writer):
            executor.shutdown(cancel_futures=True)

    def batch(self) -> Batch:
        """Return an empty batch, waiting for the oldest one under way if need be."""
        if self._free:
            return self._free.pop()
        batch, written = self._pending.popleft()
        written.result()
        batch.clear()
        return batch

    def submit(self, batch: Batch) -> None:
        """Let the threads have `batch`."""
        if not batch.used and not batch.parts:
            self._free.append(batch)
            return
        hashed = self._hasher.submit(self._hash, batch)
        encoded = self._compressors.submit(self._encode, batch)
        content = None
        if not batch.parts:
            self._content = None
        elif self._table is not None:
            self._content = self._content or _Content()
            content = self._digester.submit(self._content.update, batch)
        written = self._writer.submit(self._write, batch, hashed, encoded, content, self._content)
        self._pending.append((batch, written))

    def finish(self) -> tuple[Descriptor, str, int]:
        """Write what is left and return the blob's descriptor, the DiffID and the archive's size in bytes."""
        for _, written in self._pending:
            written.result()
        annotations: dict[str, str] = {}
        if self._table is not None:
            end = self._table.finish(self._blob_size, self._diff_size)
            for piece in end.archive:
                self._diff.update(piece)
                self._diff_size += len(piece)
            annotations = end.annotations
            for piece in end.blob:
                self._put(piece)
        diff_id = "sha256:" + self._diff.hexdigest()
        descriptor = Descriptor(
            media_type=media_type(self._compression),
            digest="sha256:" + self._blob.hexdigest(),
            size=self._blob_size,
            annotations={oci.UNCOMPRESSED: diff_id, **annotations},
        )
        return descriptor, diff_id, self._diff_size

    def _hash(self, batch: Batch) -> None:
        for piece in batch.contents():
            self._diff.update(piece)
            self._diff_size += len(piece)

    def _encode(self, batch: Batch) -> _Encoded:
        codec = self._codecs.pop()
        try:
            if batch.parts:
                return self._encode_parts(batch, codec)
            if self._table is None:
                return _Encoded(codec.compress(batch.buffer, [(0, batch.used)]), [], [])
            bounds = _bounds(batch)
            contents = [batch.view[start:end] for start, end in bounds[1::2]]
            digests = ["sha256:" + hashlib.sha256(content).hexdigest() for content in contents]
            checksums = [crc64.go_iso(content) for content in contents]
            if not bounds or bounds[-1][1] < batch.used:
                bounds.append((bounds[-1][1] if bounds else 0, batch.used))
            if not self._table.headers_apart:
                bounds = _with_what_follows(bounds)
            return _Encoded(codec.compress(batch.buffer, bounds), digests, checksums)
        finally:
            self._codecs.append(codec)

    def _encode_parts(self, batch: Batch, codec: Frames) -> _Encoded:
        chunked = self._table is not None
        parts = batch.parts if chunked else _joined(batch.parts)
        if self._compression is Compression.ESTARGZ:
            parts = [piece for part in parts for piece in _without_holes(part)]
        data = [part for part in parts if not part.is_hole]
        made = iter(codec.compress(batch.buffer, [(part.start, part.start + part.size) for part in data]))
        pieces: list[Buffer] = []
        digests: list[str] = []
        for part in parts:
            if not part.is_hole:
                pieces.append(next(made))
                digests += [oci.sha256(batch.view[part.start : part.start + part.size])] if chunked else []
                continue
            hole = zeros(self._compression, self._level, part.size)
            pieces += [b"".join(hole)] if chunked else hole
            digests.append(_zeros_digest(part.size) if self._compression is Compression.ESTARGZ else "")
        return _Encoded(pieces, digests, [], parts)

    def _write(
        self,
        batch: Batch,
        hashed: Future[None],
        encoded: Future[_Encoded],
        digested: Future[None] | None,
        content: _Content | None,
    ) -> None:
        """Write a batch's frames and enter what it holds in the table; wait until nobody needs it any more."""
        done = encoded.result()
        if self._table is not None and not batch.parts:
            self._enter_members(self._table, batch, done)
        if digested is not None:
            digested.result()
        if self._table is not None and content is not None:
            self._enter_parts(self._table, done, content)
        for data in done.frames if batch.parts else [b"".join(done.frames)]:
            self._put(data)
        hashed.result()

    def _put(self, data: Buffer) -> None:
        write_all(self._out, data, self._where)
        self._blob.update(data)
        self._blob_size += len(data)

    def _enter_members(self, table: LayerTable, batch: Batch, done: _Encoded) -> None:
        view, at, index, last = batch.view, self._blob_size, 0, 0
        lengths = [len(frame) for frame in done.frames]
        if not table.headers_apart:  # as if nothing were between one content and the next
            lengths = [one for length in lengths for one in (length, 0)]
            lengths[1:2] = []
        for entry, name, start, end in batch.members:
            header, last = view[start:end], end
            if not entry.size:
                table.add(entry, name, header)
            elif entry.size >= WHOLE:
                self._large = (entry, name, bytes(header))
                self._chunks = []
            else:
                at += lengths[2 * index]
                length, digest = lengths[2 * index + 1], done.digests[index]
                chunk = Chunk(at, length, 0, entry.size, digest)
                table.add(entry, name, header, FileContent(digest, done.checksums[index], (chunk,)))
                at += length
                index += 1
                last = end + entry.size
        if last < batch.used:
            table.trailer(view[last : batch.used])

    def _enter_parts(self, table: LayerTable, done: _Encoded, content: _Content) -> None:
        assert self._large is not None
        entry, name, header = self._large
        at = self._blob_size
        start = self._chunks[-1].start + self._chunks[-1].size if self._chunks else 0
        for part, frame, digest in zip(done.parts, done.frames, done.digests, strict=True):
            self._chunks.append(Chunk(at, len(frame), start, part.size, digest, part.is_hole))
            at += len(frame)
            start += part.size
        if start == entry.size:
            table.add(entry, name, header, FileContent("sha256:" + content.hash.hexdigest(), content.crc, self._chunks))


def _bounds(batch: Batch) -> list[tuple[int, int]]:
    """Return, for each member with content here, the bounds of what is before it and its own."""
    bounds: list[tuple[int, int]] = []
    last = 0
    for entry, _, _, end in batch.members:
        if 0 < entry.size < WHOLE:
            bounds.append((last, end))
            last = end + entry.size
            bounds.append((end, last))
    return bounds


def _with_what_follows(bounds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the bounds of what is before the first content, and of each content with what follows it."""
    ends = [end for _, end in bounds]
    inner = range(1, len(bounds), 2)
    return [bounds[0], *((bounds[index][0], ends[min(index + 1, len(ends) - 1)]) for index in inner)]


def _new_table(compression: Compression, level: int | None) -> LayerTable | None:
    if compression is Compression.ZSTD_CHUNKED:
        return TableWriter(level or 3)
    return StargzWriter(2 if level is None else level) if compression is Compression.ESTARGZ else None


def _without_holes(part: Part) -> Iterator[Part]:
    """Yield a part, or a hole in pieces: eStargz has none, and zeros are chunks like any others."""
    if not part.is_hole:
        yield part
        return
    for done in range(0, part.size, _ZEROS_CHUNK):
        yield Part(-1, min(_ZEROS_CHUNK, part.size - done))


@lru_cache(maxsize=64)
def _zeros_digest(size: int) -> str:
    return oci.sha256(bytes(size))


def _joined(parts: list[Part]) -> list[Part]:
    """Return `parts` with neighbouring data as one."""
    joined: list[Part] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before and not part.is_hole and not before.is_hole and before.start + before.size == part.start:
            joined[-1] = Part(before.start, before.size + part.size)
        else:
            joined.append(part)
    return joined
