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
from shipway.layers.bounds import Bounds
from shipway.layers.digests import ContentDigests, zeros
from shipway.layers.index import IndexBuilder
from shipway.layers.read import LayerReader
from shipway.limits import Limits
from shipway.local.indexes import Indexes
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.remotes.contract import BlobSource, until_right
from shipway.transfer.ahead import Job
from shipway.transfer.delivery import WHOLE, Piece
from shipway.trees.checksum import header
from shipway.trees.entry import Buffer, Content, Entry, OpenFile
from shipway.trees.writer import typed

_HOLE = -1
Segments = list[tuple[int, int]]
"""Where a content is: places and lengths in the spool, or a hole's length."""


@dataclass(slots=True)
class Capture:
    """Contents of files of one layer, by their digests, in an open file."""

    spool: IO[bytes]
    _segments: dict[str, Segments] = field(default_factory=dict)
    _end: int = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._segments

    def take(self, path: str, piece: Buffer | int) -> tuple[int, int]:
        """Write a piece of a content down while it passes by, and return where it is; `path` is for errors."""
        if isinstance(piece, int):
            return _HOLE, piece
        try:
            self.spool.write(piece)
        except OSError as error:
            raise typed(error, path) from error
        start = self._end
        self._end += len(piece)
        return start, len(piece)

    def keep(self, digest: str, segments: Segments) -> None:
        """Remember where a content is whose pieces have all been taken."""
        self._segments[digest] = segments

    def pieces(self, entry: Entry) -> Generator[Piece, None, None]:
        """Yield the content of `entry`."""
        self.spool.flush()
        spool, segments = self.spool.fileno(), self._segments[entry.digest]
        if entry.size <= WHOLE and all(start != _HOLE for start, _ in segments):
            data = b"".join(os.pread(spool, size, start) for start, size in segments)
            yield Piece(entry, data, last=True)
            return
        for number, (start, size) in enumerate(segments, 1):
            yield Piece(entry, size if start == _HOLE else os.pread(spool, size, start), number == len(segments))


class PlainLayer:
    """A layer of a remote image that has no table of contents. Thread-safe."""

    def __init__(
        self, remote: BlobSource, descriptor: Descriptor, limits: Limits, indexes: Indexes | None = None
    ) -> None:
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
        self._limits = limits
        self._where = f"{remote.name}@{descriptor.digest}"

    def entries(self) -> Sequence[Entry]:
        """Return the layer's entries; on the first call all of it is read, and checked, for that."""
        return self.known if self.known is not None else until_right(self.scan)

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
            bounds = Bounds(self._limits, self.descriptor.size, self._where)
            seen: list[Entry] = []
            digests = _Digests(with_records=self.with_records)
            reader = LayerReader(blob, self.descriptor, self._where, index=self.known is None, bounds=bounds)
            builder = reader.index
            has_enough = False
            try:
                for entry, content in reader:
                    if entry.is_file and entry.size:
                        keep = capture if wanted(entry.path) else None
                        entry = digests.known(entry, content, keep)  # noqa: PLW2901  now known
                    seen.append(entry)
                    if builder is not None:
                        builder.add(entry, entry.digest, reader.stored(entry))
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
        self.known, self.records = seen, digests.records
        return seen

    def _is_worth_reading_on(self, builder: IndexBuilder | None, done: int) -> bool:
        """Whether an index is worth reading on; if not, take notice of what was spent without one."""
        if builder is None or not builder.listening or self._indexes is None:
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
            jobs.append(partial(_deliver, captured, [entry for _, entry in files if entry.digest in captured]))
            files = [(path, entry) for path, entry in files if entry.digest not in captured]
        if files:
            jobs.append(partial(self._read_again, files, make_spool))
        return jobs

    def _read_again(
        self, files: Sequence[tuple[str, Entry]], make_spool: Callable[[], IO[bytes]]
    ) -> Generator[Piece, None, None]:
        paths = {entry.digest: path for path, entry in files}
        # Of a path that comes twice both contents are known: the first may be that of a hard link to it.
        expected: dict[str, list[str]] = {path: [] for path in paths.values()}
        for entry in self.entries():
            if entry.path in expected:
                expected[entry.path].append(entry.digest)

        def capture_all(capture: Capture) -> Mapping[str, str]:
            missing = dict(paths)

            def check(entry: Entry) -> bool:
                known = expected.get(entry.path)
                if known is not None and entry.digest not in known:
                    oci.check_match(entry.digest, known[0], f"{self._where}, {entry.path!r}")
                missing.pop(entry.digest, None)
                return not missing

            self.scan(capture, wanted=expected.__contains__, enough=check)
            return missing

        with make_spool() as spool:
            capture = Capture(spool)
            missing = until_right(partial(capture_all, capture))
            if missing:
                raise NotFound(f"no file {min(missing.values())!r} in the layer", where=self._where)
            yield from _deliver(capture, [entry for _, entry in files])


def _deliver(capture: Capture, entries: Iterable[Entry]) -> Generator[Piece, None, None]:
    for entry in entries:
        yield from capture.pieces(entry)


class _Digests:
    """Works out what tells contents apart, and the records of files if they are wanted."""

    def __init__(self, *, with_records: bool) -> None:
        self._with_records = with_records
        self._records: dict[str, str] = {}
        self._digests = ContentDigests()

    @property
    def records(self) -> dict[str, str]:
        """The records by path; of a path that came twice, which one is meant is for those to say who read it again."""
        return {path: digest for path, digest in self._records.items() if digest}

    def known(self, entry: Entry, content: Content, capture: Capture | None) -> Entry:
        """Return an entry with its digest, once its content has passed by, to be captured if that is wanted."""
        assert not isinstance(content, OpenFile)
        pieces: Iterable[Buffer | int] = (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content
        segments: Segments = []
        record = hashlib.sha256(header(entry)) if self._with_records else None
        self._digests.begin(entry.size)
        for piece in pieces:
            if capture is not None:
                segments.append(capture.take(entry.path, piece))
            self._digests.update(piece)
            if record is not None:
                for data in zeros(piece) if isinstance(piece, int) else (piece,):
                    record.update(data)
        digest = self._digests.end()
        if capture is not None:
            capture.keep(digest, segments)
        if record is not None:
            self._records[entry.path] = "" if entry.path in self._records else f"sha256:{record.hexdigest()}"
        return replace(entry, digest=digest)


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
