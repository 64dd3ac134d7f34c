"""A tree becomes a layer blob: tar, compression and both digests in one pass.

The calling thread writes headers and reads files into large buffers; one
thread hashes them for the DiffID, others compress them, and one writes the
results in order. All of it happens in native code that lets the others run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from shipway.errors import SizeMismatch, Truncated
from shipway.layers.batches import Batch, Pipeline
from shipway.layers.blocks import padding
from shipway.layers.compression import Compression
from shipway.layers.estargz_table import LANDMARK_CONTENT, LANDMARK_ENTRY
from shipway.layers.headers import END_OF_ARCHIVE, archive_name, header
from shipway.layers.split import WHOLE, Splitter
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.trees.entry import Entry, LocalTree


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer: its blob's descriptor, and the digest and size in bytes of the archive inside."""

    descriptor: Descriptor
    diff_id: str
    diff_size: int


def pack(
    tree: LocalTree,
    entries: Iterable[Entry],
    out: BinaryIO,
    *,
    compression: Compression = Compression.ZSTD_CHUNKED,
    level: int | None = None,
    where: str = "",
    progress: ProgressCallback | None = None,
    threads: int | None = None,
) -> Packed:
    """Write `entries`, with the contents that `tree` has, to `out` as a layer blob.

    They may be found while they are packed; only of a sequence the total is known to `progress`.

    Equal entries and contents give an equal DiffID, and with one release of libzstd an
    equal blob, whatever `threads` is (None: one a processor). Raises `Invalid`
    for a name or number that no layer can hold, `NoSpace` when `out` is full, and `Truncated` or
    `SizeMismatch` when a file changed while it was read.
    """
    with Pipeline(out, compression, level, threads or os.cpu_count() or 1, where) as pipeline:
        total = sum(entry.size for entry in entries) if isinstance(entries, Sequence) else None
        packer = Packer(tree.open, pipeline, where, progress, total)
        if compression is Compression.ESTARGZ:
            packer.add_landmark()
        for entry in entries:
            packer.add(entry)
        packer.finish(END_OF_ARCHIVE if compression is not Compression.ESTARGZ else b"")
        descriptor, diff_id, diff_size = pipeline.finish()
    return Packed(descriptor, diff_id, diff_size)


class Packer:
    """Lays entries out in batches."""

    def __init__(
        self,
        open_file: Callable[[str], int],
        pipeline: Pipeline,
        where: str,
        progress: ProgressCallback | None,
        total: int | None,
    ) -> None:
        """Give batches to `pipeline`; `open_file` opens the content at an entry's path, and is closed here."""
        self._open = open_file
        self._pipeline = pipeline
        self._where = where
        self._progress = progress
        self._total = total
        self._done = 0
        self._padding = 0
        self._batch = pipeline.batch()

    def add(self, entry: Entry, base: int | None = None) -> None:
        """Take the next entry; see `add_raw` for `base`."""
        name = archive_name(entry)
        head = bytes(self._padding) + header(entry, name) if self._padding else header(entry, name)
        self.add_raw(entry, name, head, base)
        self._padding = padding(entry.size)

    def add_raw(self, entry: Entry, name: str, head: bytes, base: int | None = None) -> None:
        """Take the next entry with all bytes of the archive before its content.

        With `base` its content is the part of what is opened that begins there.
        """
        size = entry.size
        is_large = size >= WHOLE
        batch = self._batch
        if len(head) + (0 if is_large else size) >= batch.room:
            self._submit()
            batch = self._batch
        start = batch.append(head)
        if size and not is_large:
            self._read(entry, batch, base)
        batch.members.append((entry, name, start, start + len(head)))
        if is_large:
            self._add_large(entry, base)

    def add_bytes(self, data: bytes) -> None:
        """Take bytes of the archive that belong to no entry, apart from what comes before and after."""
        self._submit()
        while data:
            room = self._batch.room
            self._batch.append(data[:room])
            self._submit()
            data = data[room:]

    def add_landmark(self) -> None:
        """Take the file that eStargz begins with."""
        head = header(LANDMARK_ENTRY, LANDMARK_ENTRY.path)
        start = self._batch.append(head)
        self._batch.members.append((LANDMARK_ENTRY, LANDMARK_ENTRY.path, start, start + len(head)))
        self._batch.append(LANDMARK_CONTENT)
        self._padding = padding(LANDMARK_ENTRY.size)

    def flush(self) -> None:
        """Hand over what there is."""
        self._submit()

    def finish(self, end: bytes) -> None:
        """Write the archive's end."""
        tail = bytes(self._padding) + end
        if len(tail) > self._batch.room:
            self._submit()
        self._batch.append(tail)
        self._total = self._done
        self._submit()

    def _submit(self) -> None:
        self._pipeline.submit(self._batch)
        self._batch = self._pipeline.batch()
        if self._progress is not None:
            self._progress(Progress("pack", self._where, self._done, self._total))

    def _read(self, entry: Entry, batch: Batch, base: int | None) -> None:
        """Read a small file; one byte more is asked for, to see whether it grew."""
        size, start = entry.size, batch.used
        fd = self._open(entry.path)
        try:
            view = batch.view[start : start + size + (base is None)]
            at = base or 0
            read = os.preadv(fd, (view,), at)
            while 0 < read < size:
                more = os.preadv(fd, (view[read:],), at + read)
                if not more:
                    break
                read += more
        finally:
            os.close(fd)
        if read != size:
            self._changed(entry, read)
        batch.used = start + size
        self._done += size

    def _changed(self, entry: Entry, read: int) -> None:
        where = f"{self._where}: {entry.path!r}" if self._where else repr(entry.path)
        if read < entry.size:
            raise Truncated(f"shrank to {read} of {entry.size} bytes while it was packed", where=where)
        raise SizeMismatch(f"grew beyond {entry.size} bytes while it was packed", where=where)

    def _add_large(self, entry: Entry, base: int | None) -> None:
        where = f"{self._where}: {entry.path!r}" if self._where else repr(entry.path)
        self._submit()
        fd = self._open(entry.path)
        try:
            splitter = Splitter(fd, entry.size, where, base=base)
            while not splitter.done:
                batch = self._batch
                batch.parts = splitter.fill(batch.buffer)
                self._done += sum(part.size for part in batch.parts)
                self._submit()
        finally:
            os.close(fd)
