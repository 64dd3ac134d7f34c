"""A remote layer without a table of contents: it can only be read from its beginning.

While it passes by, contents that may be wanted are *captured* to a file without a name, so nothing of the
layer is stored longer than it takes. A layer that was read to its end has been
checked against its digest, and its entries are kept, each file with its own digest:
from then on files can be read by stopping early, and still be checked. Only when
a *first* reading is stopped early are contents used that no digest vouches for (the
transport's own protection and the checksums inside the format aside), since none is known before the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from msgspec.structs import replace

from shipway import oci
from shipway.errors import Corrupt, NotFound, SizeMismatch
from shipway.layers.index import IndexBuilder
from shipway.layers.read import LayerReader
from shipway.local.indexes import Indexes
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.remotes.contract import BlobSource
from shipway.transfer.ahead import Job
from shipway.transfer.delivery import WHOLE, Piece
from shipway.trees.checksum import header
from shipway.trees.entry import Buffer, Content, Entry, OpenFile
from shipway.trees.writer import typed

_ZEROS = bytes(1 << 20)
_HOLE = -1


@dataclass(slots=True)
class Capture:
    """Contents of files of one layer, by their paths in it, in an open file."""

    spool: IO[bytes]
    _segments: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Where each content is: places and lengths in the spool, or a hole's length."""
    _end: int = 0

    def __contains__(self, path: str) -> bool:
        return path in self._segments

    def add(self, path: str, pieces: Iterable[Buffer | int]) -> Iterator[Buffer | int]:
        """Take a content while it passes through."""
        segments: list[tuple[int, int]] = []
        for piece in pieces:
            if isinstance(piece, int):
                segments.append((_HOLE, piece))
            else:
                try:
                    self.spool.write(piece)
                except OSError as error:
                    raise typed(error, path) from error
                segments.append((self._end, len(piece)))
                self._end += len(piece)
            yield piece
        self._segments[path] = segments

    def pieces(self, path: str, entry: Entry) -> Generator[Piece, None, None]:
        """Yield the content of `path` as that of `entry`."""
        self.spool.flush()
        spool, segments = self.spool.fileno(), self._segments[path]
        if entry.size <= WHOLE and all(start != _HOLE for start, _ in segments):
            data = b"".join(os.pread(spool, size, start) for start, size in segments)
            yield Piece(entry, data, last=True)
            return
        for number, (start, size) in enumerate(segments, 1):
            yield Piece(entry, size if start == _HOLE else os.pread(spool, size, start), number == len(segments))


class PlainLayer:
    """A layer of a remote image that has no table of contents. Thread-safe."""

    def __init__(self, remote: BlobSource, descriptor: Descriptor, indexes: Indexes | None = None) -> None:
        """Read from `remote`; nothing is fetched yet. An index that is made on the way is kept in `indexes`."""
        self.descriptor = descriptor
        self.known: Sequence[Entry] | None = None
        """The layer's entries, once it was read to its end."""
        self.with_records = False
        """Whether to work out the records of files (`shipway.trees.checksum`) while reading."""
        self.index: bytes | None = None
        """The layer's index, once it was read to its end, if there can be one."""
        self.records: Mapping[str, str] = {}
        """Digests of the records of files, by path, once it was read to its end with them."""
        self._indexes = indexes
        self._remote = remote
        self._where = f"{remote.name}@{descriptor.digest}"

    def entries(self) -> Sequence[Entry]:
        """Return the layer's entries; on the first call all of it is read, and checked, for that."""
        return self.known if self.known is not None else self.scan()

    def scan(
        self,
        capture: Capture | None = None,
        *,
        wanted: Callable[[str], bool] = lambda _: False,
        enough: Callable[[Entry], bool] = lambda _: False,
        progress: ProgressCallback | None = None,
    ) -> Sequence[Entry]:
        """Read the layer until `enough` says so of an entry, or to its end; return the entries seen.

        It is read on to its end, too, when that costs no more than has been spent on it: for the sake of its index.
        Contents of files whose paths are `wanted` go to `capture`. At the end of the blob its digest and
        size have been checked. Raises what the remote and the layer's format raise.
        """
        with self._remote.read_blob(self.descriptor) as pieces:
            blob = _Checked(pieces, self.descriptor, self._where, progress)
            seen: list[Entry] = []
            records: dict[str, str] = {}
            reader = LayerReader(iter(blob), self.descriptor, self._where, index=self.known is None)
            builder = reader.index
            has_enough = False
            try:
                for entry, content in reader:
                    if entry.is_file and entry.size:
                        keep = capture if wanted(entry.path) else None
                        record = hashlib.sha256(header(entry)) if self.with_records else None
                        entry = replace(entry, digest=_digest(entry.path, content, keep, record))  # noqa: PLW2901  now known
                        if record is not None:
                            # Of a path that comes twice, which one is meant is for those to say who read it again.
                            records[entry.path] = "" if entry.path in records else f"sha256:{record.hexdigest()}"
                    seen.append(entry)
                    if builder is not None:
                        builder.add(entry, reader.stored(entry))
                    if not has_enough and enough(entry):
                        if not self._is_worth_reading_on(builder, blob.size):
                            blob.leave()
                            return seen
                        has_enough = True
            except Corrupt:
                _drain(blob)  # whether it was damaged on its way, or made so, is for its digest to say
                raise
            _drain(blob)
        if builder is not None:
            self.index = builder.finish()
        if self.index is not None and self._indexes is not None:
            self._indexes.save(self.descriptor, self.index)
        self.known, self.records = seen, {path: digest for path, digest in records.items() if digest}
        return seen

    def _is_worth_reading_on(self, builder: IndexBuilder | None, done: int) -> bool:
        """Whether an index is worth reading on; if not, take notice of what was spent without one."""
        if builder is None or self._indexes is None:
            return False
        if self._indexes.spent(self.descriptor) + done >= self.descriptor.size - done:
            return True
        self._indexes.spend(self.descriptor, done)
        return False

    def jobs(
        self, files: Sequence[tuple[str, Entry]], captured: Capture | None, make_spool: Callable[[], IO[bytes]]
    ) -> list[Job[Piece]]:
        """Return what reads contents: those of `captured` from there, the others by reading the layer again.

        `files` are paths in this layer, each with the entry it is read for. The layer's entries must be
        known if not all are captured.
        """
        jobs: list[Job[Piece]] = []
        if captured is not None:
            held = [(path, entry) for path, entry in files if path in captured]
            jobs.append(partial(_deliver, captured, held))
            files = [(path, entry) for path, entry in files if path not in captured]
        if files:
            jobs.append(partial(self._read_again, files, make_spool))
        return jobs

    def _read_again(
        self, files: Sequence[tuple[str, Entry]], make_spool: Callable[[], IO[bytes]]
    ) -> Generator[Piece, None, None]:
        missing = {path for path, _ in files}
        expected = {entry.path: entry.digest for entry in self.entries() if entry.path in missing}

        def check(entry: Entry) -> bool:
            if entry.path in missing:
                oci.check_match(entry.digest, expected[entry.path], f"{self._where}, {entry.path!r}")
                missing.discard(entry.path)
            return not missing

        with make_spool() as spool:
            capture = Capture(spool)
            self.scan(capture, wanted=expected.__contains__, enough=check)
            if missing:
                raise NotFound(f"no file {min(missing)!r} in the layer", where=self._where)
            yield from _deliver(capture, files)


def _deliver(capture: Capture, files: Iterable[tuple[str, Entry]]) -> Generator[Piece, None, None]:
    for path, entry in files:
        yield from capture.pieces(path, entry)


def _digest(path: str, content: Content, capture: Capture | None, record: hashlib._Hash | None) -> str:
    """Return the digest of a content, which is captured on the way, and taken into a record, if that is wanted."""
    assert not isinstance(content, OpenFile)
    pieces: Iterable[Buffer | int] = (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content
    if capture is not None:
        pieces = capture.add(path, pieces)
    digest = hashlib.sha256()
    for piece in pieces:
        for data in _zeros(piece) if isinstance(piece, int) else (piece,):
            digest.update(data)
            if record is not None:
                record.update(data)
    return f"sha256:{digest.hexdigest()}"


def _zeros(count: int) -> Iterator[bytes]:
    for done in range(0, count, len(_ZEROS)):
        yield _ZEROS[: count - done]


class _Checked:
    """A blob's pieces, whose size and digest are checked when they have all been taken."""

    def __init__(
        self, pieces: Iterator[Buffer], descriptor: Descriptor, where: str, progress: ProgressCallback | None
    ) -> None:
        self._pieces = pieces
        self._descriptor = descriptor
        self._where = where
        self._progress = progress
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes passed on so far."""
        self._tell(descriptor.size)

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        descriptor, where = self._descriptor, self._where
        piece = next(self._pieces, None)
        if piece is None:
            oci.check_size(self.size, descriptor.size, where)
            oci.check_match(f"sha256:{self._digest.hexdigest()}", descriptor.digest, where)
            raise StopIteration
        self.size += len(piece)
        if self.size > descriptor.size:
            raise SizeMismatch(f"has more than the {descriptor.size} bytes that were promised", where=where)
        self._digest.update(piece)
        self._tell(descriptor.size)
        return piece

    def leave(self) -> None:
        """Take no more: what was read is all that had to be."""
        self._tell(self.size)

    def _tell(self, total: int) -> None:
        if self._progress:
            self._progress(Progress("scan", self._descriptor.digest, self.size, total))


def _drain(pieces: Iterable[Buffer]) -> None:
    for _ in pieces:
        pass
