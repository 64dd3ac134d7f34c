"""A layer's archive in another compression: byte for byte the same archive, so that the DiffID stays.

For gzip, zstd and none the archive passes through as it is. zstd:chunked needs to know where files begin, and
eStargz is another archive anyway, so for these it is written to a file first, from which contents are taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

import msgspec

from shipway.errors import Corrupt, Invalid, Truncated
from shipway.layers.batches import Pipeline
from shipway.layers.blocks import Blocks, filled, padding
from shipway.layers.chunked import HEADERS
from shipway.layers.compression import ByteSource, Compression
from shipway.layers.headers import END_OF_ARCHIVE, archive_name, header
from shipway.layers.output import write_all
from shipway.layers.pack import Packed, Packer
from shipway.layers.tar import TarReader
from shipway.progress import Progress, ProgressCallback
from shipway.trees.entry import Entry

_PIECE = 1 << 20
_GAP = 1 << 20
"""Most bytes between two contents that are taken for the second one's headers."""
_PLAIN = {Compression.ZSTD_CHUNKED: Compression.ZSTD, Compression.ESTARGZ: Compression.GZIP}


def repack(
    archive: ByteSource,
    out: BinaryIO,
    spool: BinaryIO,
    compression: Compression,
    level: int | None,
    *,
    where: str = "",
    progress: ProgressCallback | None = None,
) -> Packed:
    """Write a layer blob that holds `archive` to `out`; `spool` is an empty file to write the archive to if need be.

    An archive that no table of contents can describe (a sparse file, a name that comes twice) is written as plain
    zstd or gzip instead. Raises what reading `archive` raises, `Invalid` for a level that there is not, and `NoSpace`.
    """
    threads = os.cpu_count() or 1
    if compression not in _PLAIN:
        with Pipeline(out, compression, level, threads, where) as pipeline:
            return _copied(archive, pipeline, where, progress)
    for buffer, size in filled(archive):
        write_all(spool, memoryview(buffer)[:size], where)
    spool.flush()
    if not _can_be_listed(spool, where):
        spool.seek(0)
        with Pipeline(out, _PLAIN[compression], level, threads, where) as pipeline:
            return _copied(_File(spool), pipeline, where, progress)
    with Pipeline(out, compression, level, threads, where) as pipeline:
        packer = Packer(lambda _: os.dup(spool.fileno()), pipeline, where, progress, None)
        own = True
        if compression is Compression.ESTARGZ:
            _pack_anew(spool, packer, where)
        else:
            own = _pack_as_it_is(spool, packer, where)
        packed = Packed(*pipeline.finish())
        return packed if own else _of_another(packed)


class _File:
    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self._at = 0

    def readinto(self, buffer: memoryview, /) -> int:
        done = 0
        while done < len(buffer):
            size = os.preadv(self._fd, (buffer[done:],), self._at)
            if not size:
                break
            done += size
            self._at += size
        return done


def _copied(archive: ByteSource, pipeline: Pipeline, where: str, progress: ProgressCallback | None) -> Packed:
    done = 0
    while True:
        batch = pipeline.batch()
        batch.used = archive.readinto(batch.view)
        if not batch.used:
            return Packed(*pipeline.finish())
        done += batch.used
        pipeline.submit(batch)
        if progress is not None:
            progress(Progress("pack", where, done, None))


def _reader(spool: BinaryIO, where: str) -> TarReader:
    return TarReader(Blocks(filled(_File(spool))), where)


def _entries(reader: TarReader) -> Iterator[Entry]:
    """Yield all entries; `Truncated` if there is no end marker."""
    for entry, _ in reader:
        yield entry
    if not reader.complete:
        raise Truncated("the archive has no end", where="the layer")


def _can_be_listed(spool: BinaryIO, where: str) -> bool:
    reader = _reader(spool, where)
    seen: set[str] = set()
    for entry in _entries(reader):
        key = f"{entry.kind}\0{entry.path}" if entry.kind in ("whiteout", "opaque") else entry.path
        if reader.is_sparse or key in seen:
            return False
        seen.add(key)
    return True


def _pack_anew(spool: BinaryIO, packer: Packer, where: str) -> None:
    """Pack the entries with headers of our own."""
    reader = _reader(spool, where)
    packer.add_landmark()
    for entry in _entries(reader):
        packer.add(entry, reader.place)
    packer.finish(b"")


def _of_another(packed: Packed) -> Packed:
    """Return a layer that does not say that its headers can be made again of its table."""
    annotations = {key: value for key, value in packed.descriptor.annotations.items() if key != HEADERS}
    return replace(packed, descriptor=msgspec.structs.replace(packed.descriptor, annotations=annotations))


def _pack_as_it_is(spool: BinaryIO, packer: Packer, where: str) -> bool:
    """Pack all bytes of the archive, with entries and contents recognised; return whether the rest is as Shipway's."""
    reader = _reader(spool, where)
    at = missing = 0
    own = True
    for entry in _entries(reader):
        head = _take(spool, at, reader.place, where)
        own = own and _is_own(head, missing, entry)
        missing = padding(entry.size)
        if len(head) > _GAP:
            packer.add_bytes(head[:-_GAP])
            head = head[-_GAP:]
        packer.add_raw(entry, archive_name(entry), head, reader.place)
        at = reader.place + entry.size
    end = os.fstat(spool.fileno()).st_size
    own = own and _take(spool, at, min(at + _PIECE, end), where) == bytes(missing) + END_OF_ARCHIVE
    while at < end:
        piece = _take(spool, at, min(at + _PIECE, end), where)
        packer.add_bytes(piece)
        at += len(piece)
    packer.flush()
    return own


def _is_own(head: bytes, missing: int, entry: Entry) -> bool:
    """Whether `head`, with the padding before it, is what Shipway writes before the content of an entry."""
    with suppress(Invalid):
        return head == bytes(missing) + header(entry, archive_name(entry))
    return False


def _take(spool: BinaryIO, start: int, end: int, where: str) -> bytes:
    data = os.pread(spool.fileno(), end - start, start)
    if len(data) != end - start:
        raise Corrupt("the archive cannot be read again", where=where)
    return data
