"""A layer blob becomes a tree, in one pass that checks everything."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

from shipway import oci
from shipway.errors import Corrupt, SizeMismatch
from shipway.layers.agreement import Told, Window, Witness
from shipway.layers.blocks import BUFFER_SIZE, Blocks, Filled
from shipway.layers.bounds import BoundedSource, Bounds
from shipway.layers.chunked import MAX_TABLE
from shipway.layers.compressing import Compressing
from shipway.layers.compression import ByteSource, Compression, compression_of, decompressed
from shipway.layers.formats import contents_of, tells_times
from shipway.layers.index import indexed
from shipway.layers.output import write_all
from shipway.layers.passing import Passing, Watcher
from shipway.layers.tar import TarReader
from shipway.limits import Limits
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.stopping import Workers
from shipway.trees.copying import Adding
from shipway.trees.entry import Buffer, Content, Entry, OpenFile, TreeSink
from shipway.trees.spool import Spool

BUFFERS = 6
"""Buffers of a megabyte in flight between inflating, hashing and parsing."""
KEPT = 2
"""How many of them may still be hashed after they were parsed."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer turned out to be: its DiffID, its size unpacked in bytes, its number of entries."""

    diff_id: str
    diff_size: int
    entries: int
    index: Spool | None = None
    """Its index (`shipway.layers.index`), if one was wanted and there can be one."""


def unpack(
    pieces: Iterator[Buffer],
    descriptor: Descriptor,
    diff_id: str | None,
    sink: TreeSink,
    *,
    keep: BinaryIO | None = None,
    limits: Limits | None = None,
    index: bool = False,
    where: str = "",
    progress: ProgressCallback | None = None,
) -> Unpacked:
    """Feed the entries of the blob that `pieces` are to `sink`, and the blob's bytes to `keep`.

    When it returns, the blob had the descriptor's digest and size and unpacked
    to `diff_id` (if one is given); before that nothing of `sink` or `keep`
    is to be trusted, so the caller finishes them only now. `pieces` is consumed in a thread of its own. With `index`
    one is made on the way of a layer that has no table of contents.

    Raises `UnknownMediaType`; `Truncated`, `SizeMismatch` or `DigestMismatch`
    if these are not the right bytes; and only if they are, `Corrupt` or
    `UnsafeEntry`, naming the entry, for what is wrong with the layer itself, or `TooLarge` if it passes `limits`.
    A table of contents that says other things than the archive is `Corrupt` too.
    """
    where = where or descriptor.digest
    contents = contents_of(descriptor)
    window = Window(*contents.passing) if contents is not None else None
    blob = _Blob(pieces, descriptor, keep, window, where)
    builder = indexed(iter(blob), descriptor, where) if index and contents is None else None
    source = builder or decompressed(iter(blob), compression_of(descriptor.media_type, where), where)
    witness = Witness(times=tells_times(descriptor, contents)) if contents is not None else None
    unpacking = _Unpacking(source, sink, descriptor, limits, where, builder or witness)
    with unpacking.inflating as inflating:
        try:
            buffers = inflating.buffers()
            buffers = _reporting(buffers, blob, progress) if progress else buffers
            entries = unpacking.feed(buffers, MAX_TABLE if contents is not None else 0)
        except Corrupt:
            # Whether the blob was damaged on its way, or made so, is for its digest to say.
            inflating.stop()
            blob.drain()
            blob.check()
            raise
        inflating.stop()
    blob.drain()
    blob.check()
    if diff_id is not None:
        oci.check_match(inflating.digest, diff_id, f"{where} unpacked")
    if contents is not None and window is not None:
        table = contents.overheard(window.data, unpacking.table, where)
        if table is not None:
            unpacking.check(table)
    return Unpacked(inflating.digest, inflating.size, entries, builder.finish() if builder is not None else None)


class Clones(Protocol):
    """Files of this machine that have the very contents that pass by in an archive."""

    def may_have(self, entry: Entry) -> bool:
        """Whether there may be one for a file, before its content has passed."""

    def open(self, entry: Entry) -> int:
        """Return a descriptor of it, once the content has passed; the caller closes it.

        `Corrupt` if it turned out to be another.
        """


def unpack_archive(
    pieces: Iterator[Buffer],
    descriptor: Descriptor,
    diff_id: str,
    sink: TreeSink,
    *,
    table: Told,
    clones: Clones | None = None,
    limits: Limits | None = None,
) -> Unpacked:
    """Feed the entries of the archive that `pieces` are, not compressed, to `sink`.

    Contents are taken from `clones` where it has them. When it returns, the archive had the digest `diff_id`, and
    says what the blob's `table` of contents says; before that nothing of `sink` is to be trusted. See `unpack`.
    """
    where = descriptor.digest
    source = decompressed(pieces, Compression.UNCOMPRESSED, where)
    into = sink if clones is None else _Cloning(sink, clones)
    contents = contents_of(descriptor)
    witness = Witness(times=contents is not None and tells_times(descriptor, contents))
    unpacking = _Unpacking(source, into, descriptor, limits, where, witness)
    with unpacking.inflating as inflating:
        entries = unpacking.feed(inflating.buffers())
        inflating.stop()
    oci.check_match(inflating.digest, diff_id, f"{where} put together")
    table.check(witness, where)
    return Unpacked(inflating.digest, inflating.size, entries)


class _Cloning:
    """Hands entries on to a sink, with open files in the place of contents that passed by."""

    def __init__(self, sink: TreeSink, clones: Clones) -> None:
        self._sink = sink
        self._clones = clones

    def add(self, entry: Entry, content: Content = b"") -> None:
        if not self._clones.may_have(entry):
            self._sink.add(entry, content)
            return
        if isinstance(content, Iterator):
            for _ in content:
                pass
        fd = self._clones.open(entry)
        try:
            self._sink.add(entry, OpenFile(fd))
        finally:
            os.close(fd)


class _Unpacking:
    """An archive on its way to a sink, within bounds, of which a `Watcher` hears if there is one."""

    def __init__(  # noqa: PLR0917  each is a thing it needs
        self,
        source: ByteSource,
        sink: Adding,
        descriptor: Descriptor,
        limits: Limits | None,
        where: str,
        watcher: Watcher | None,
    ) -> None:
        self._where = where
        self._sink = sink
        self._witness = watcher if isinstance(watcher, Witness) else None
        self._passing = Passing(watcher) if watcher is not None else None
        self._limits = limits
        self._size = descriptor.size
        self._bounds = self._make_bounds()
        if self._bounds is not None:
            source = BoundedSource(source, self._bounds)
        self.table: Compressing | None = None
        """The table of contents that is inside the archive, if there is one."""
        self.inflating = _Inflating(source, self._passing)

    def _make_bounds(self) -> Bounds | None:
        return Bounds(self._limits, self._size, self._where) if self._limits is not None else None

    def feed(self, buffers: Iterator[Filled], keep: int = 0) -> int:
        """Give the sink all entries; return how many. A table inside the archive of up to `keep` bytes is kept."""
        entries = 0
        add, bounds = self._sink.add, self._bounds
        reader = TarReader(Blocks(buffers), self._where, keep=keep)
        for entry, content in reader if self._passing is None else self._passing.entries(reader):
            if bounds is not None:
                bounds.count(entry)
            add(entry, content)
            entries += 1
        for _ in buffers:
            pass
        self.table = reader.table
        return entries

    def check(self, table: Iterable[Entry]) -> None:
        """Raise `Corrupt` unless the table says what the archive, all read, said."""
        assert self._witness is not None
        bounds = self._make_bounds()
        self._witness.check(bounds.counted(table) if bounds is not None else table, self._where)


def _reporting(buffers: Iterator[Filled], blob: _Blob, progress: ProgressCallback) -> Iterator[Filled]:
    total, digest = blob.descriptor.size, blob.descriptor.digest
    for filled in buffers:
        progress(Progress("unpack", digest, blob.size, total))
        yield filled
    progress(Progress("unpack", digest, blob.size, total))


class _Blob:
    """Hashes a blob's pieces, and keeps them, as they pass by."""

    def __init__(
        self,
        pieces: Iterator[Buffer],
        descriptor: Descriptor,
        keep: BinaryIO | None,
        window: Window | None,
        where: str,
    ) -> None:
        self.descriptor = descriptor
        self.size = 0
        self._pieces = iter(pieces)
        self._hash = hashlib.sha256()
        self._keep = keep
        self._window = window
        self.where = where

    def __iter__(self) -> Iterator[Buffer]:
        promised = self.descriptor.size
        for piece in self._pieces:
            self.size += len(piece)
            if self.size > promised:
                raise SizeMismatch(f"has more than the {promised} bytes that were promised", where=self.where)
            self._hash.update(piece)
            if self._window is not None:
                self._window.pass_by(self.size - len(piece), piece)
            if self._keep is not None:
                write_all(self._keep, piece, self.where)
            yield piece

    def drain(self) -> None:
        """Read what nobody asked for."""
        for _ in self:
            pass

    def check(self) -> None:
        """Raise `Truncated` or `DigestMismatch` unless the blob, all read, is what it should be."""
        oci.check_size(self.size, self.descriptor.size, self.where)
        oci.check_match("sha256:" + self._hash.hexdigest(), self.descriptor.digest, self.where)


class _Inflating:
    """Fills buffers from a source in one thread and hashes them in another, some ahead of their reader.

    The second thread also works off what was noted of entries that passed by.
    """

    def __init__(self, source: ByteSource, passing: Passing | None) -> None:
        self.size = 0
        self._source = source
        self._passing = passing
        self._hash = hashlib.sha256()
        self._stopped = False
        self._inflater = Workers(1, "inflate")
        self._hasher = ThreadPoolExecutor(1, "hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._inflater.stop()
        self.stop()

    @property
    def digest(self) -> str:
        """The DiffID, once all buffers were taken."""
        return "sha256:" + self._hash.hexdigest()

    def stop(self) -> None:
        """Wait for what is under way; nothing more is read from the source."""
        self._stopped = True
        self._inflater.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)

    def buffers(self) -> Iterator[Filled]:
        """Yield filled buffers in order; each is used again once the next but one is asked for."""
        filling: deque[tuple[bytearray, Future[int]]] = deque()
        used: deque[tuple[bytearray, Future[None]]] = deque()
        for _ in range(BUFFERS):
            buffer = bytearray(BUFFER_SIZE)
            filling.append((buffer, self._inflater.submit(self._fill, buffer)))
        while True:
            buffer, filled = filling.popleft()
            size = filled.result()
            if not size:
                break
            hashed = self._hasher.submit(self._hash.update, memoryview(buffer)[:size])
            yield buffer, size
            if self._passing is not None:
                hashed = self._hasher.submit(self._passing.work, self._passing.noted())
            used.append((buffer, hashed))
            if len(used) == KEPT:
                buffer, hashed = used.popleft()
                hashed.result()
                filling.append((buffer, self._inflater.submit(self._fill, buffer)))
        for _, hashed in used:
            hashed.result()

    def _fill(self, buffer: bytearray) -> int:
        if self._stopped:
            return 0
        size = self._source.readinto(memoryview(buffer))
        self.size += size
        return size
