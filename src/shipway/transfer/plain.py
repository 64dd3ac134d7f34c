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
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import IO, NamedTuple

from msgspec.structs import replace

from shipway import oci
from shipway.errors import Corrupt, SizeMismatch
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
from shipway.trees.checksum import DIGEST_SIZE, header
from shipway.trees.entry import Buffer, Content, Entry, OpenFile
from shipway.trees.listing import Listed, Listing
from shipway.trees.packed import PackedEntries, picked
from shipway.trees.spool import Spool
from shipway.trees.writer import typed

_HOLE = -1
Segment = tuple[int, int]
"""Where a part of a content is, and its length; of a hole only that is known."""


class Capture:
    """Contents of files of one layer, by the numbers of their entries, in an open file."""

    def __init__(self, spool: IO[bytes]) -> None:
        """Write contents to `spool`."""
        self._spool = spool
        self._end = 0
        self._contents = array("I")
        """By entry, the number of its content, from 1 on, or 0."""
        self._firsts = array("Q", [0])
        """The number of each content's first segment."""
        self._segments = array("q")

    def __contains__(self, number: int) -> bool:
        return number < len(self._contents) and self._contents[number] > 0

    def take(self, path: str, piece: Buffer | int) -> Segment:
        """Write a piece of a content down while it passes by, and return where it is; `path` is for errors."""
        if isinstance(piece, int):
            return _HOLE, piece
        try:
            self._spool.write(piece)
        except OSError as error:
            raise typed(error, path) from error
        start = self._end
        self._end += len(piece)
        return start, len(piece)

    def keep(self, number: int, segments: Sequence[Segment]) -> None:
        """Remember where a content is whose pieces have all been taken."""
        for segment in segments:
            self._segments.extend(segment)
        self._contents.extend(repeat(0, number + 1 - len(self._contents)))
        self._contents[number] = len(self._firsts)
        self._firsts.append(len(self._segments) // 2)

    def pieces(self, entry: Entry, number: int) -> Generator[Piece, None, None]:
        """Yield the content of `entry`, whose number here is `number`."""
        self._spool.flush()
        spool, content = self._spool.fileno(), self._contents[number]
        flat = iter(self._segments[2 * self._firsts[content - 1] : 2 * self._firsts[content]])
        segments = list(zip(flat, flat, strict=True))
        if entry.size <= WHOLE and all(start != _HOLE for start, _ in segments):
            data = b"".join(os.pread(spool, size, start) for start, size in segments)
            yield Piece(entry, data, last=True)
            return
        for count, (start, size) in enumerate(segments, 1):
            yield Piece(entry, size if start == _HOLE else os.pread(spool, size, start), count == len(segments))


class PlainLayer:
    """A layer of a remote image that has no table of contents. Thread-safe."""

    def __init__(
        self, remote: BlobSource, descriptor: Descriptor, limits: Limits, indexes: Indexes | None = None
    ) -> None:
        """Read from `remote`; nothing is fetched yet. An index that is made on the way is kept in `indexes`."""
        self.descriptor = descriptor
        self.known: Listing | None = None
        """The layer's entries, once it was read to its end."""
        self.with_records = False
        """Whether to work out the records of files (`shipway.trees.checksum`) while reading."""
        self.index: Spool | None = None
        """The layer's index, once it was read to its end, if there can be one."""
        self.records = bytearray()
        """The digests of the records of its files, each at its entry's place, once it was read to its end with them."""
        self._indexes = indexes
        self._remote = remote
        self._limits = limits
        self._where = f"{remote.name}@{descriptor.digest}"

    @property
    def table(self) -> str:
        """The digest of its index; empty without one."""
        return self.index.digest() if self.index is not None else ""

    def entries(self) -> Listing:
        """Return the layer's entries; all of it is read, and checked, if that was not done yet, or without records."""
        if self.known is None or (self.with_records and len(self.records) < DIGEST_SIZE * len(self.known)):
            return until_right(self.scan)
        return self.known

    def scan(
        self,
        capture: Capture | None = None,
        *,
        wanted: Callable[[int, str], bool] = lambda _number, _path: False,
        enough: Callable[[int, Entry], bool] = lambda _number, _entry: False,
        progress: ProgressCallback | None = None,
    ) -> Listing:
        """Read the layer until `enough` says so of an entry and its number, or to its end; return the entries seen.

        It is read on to its end, too, when that costs no more than has been spent on it: for the sake of its index.
        Contents of files whose numbers and paths are `wanted` go to `capture`. At the end of the blob its digest and
        size have been checked. Raises what the remote and the layer's format raise.
        """
        with self._remote.read_blob(self.descriptor) as pieces:
            blob = _Checked(pieces, self.descriptor, self._where, progress)
            bounds = Bounds(self._limits, self.descriptor.size, self._where)
            seen: PackedEntries[Entry] = PackedEntries()
            digests = _Digests(with_records=self.with_records)
            reader = LayerReader(blob, self.descriptor, self._where, index=self.known is None, bounds=bounds)
            builder = reader.index
            has_enough = False
            try:
                for number, (entry, content) in enumerate(reader):
                    if entry.is_file and entry.size:
                        keep = capture if wanted(number, entry.path) else None
                        entry = digests.known(number, entry, content, keep)  # noqa: PLW2901  now known
                    seen.add(entry)
                    if builder is not None:
                        builder.add(entry, entry.digest, reader.stored(entry))
                    if not has_enough and enough(number, entry):
                        if not self._is_worth_reading_on(builder, blob.size):
                            blob.leave()
                            return Listed(seen)
                        has_enough = True
            except Corrupt:
                _drain(blob)  # whether it was damaged on its way, or made so, is for its digest to say
                raise
            _drain(blob)
        if builder is not None:
            self.index = builder.finish()
        if self.index is not None and self._indexes is not None:
            self._indexes.save(self.descriptor, self.index)
        self.known, self.records = Listed(seen), digests.records
        self.records.extend(bytes(DIGEST_SIZE * len(seen) * self.with_records - len(self.records)))
        return self.known

    def _is_worth_reading_on(self, builder: IndexBuilder | None, done: int) -> bool:
        """Whether an index is worth reading on; if not, take notice of what was spent without one."""
        if builder is None or not builder.listening or self._indexes is None:
            return False
        if self._indexes.spent(self.descriptor) + done >= self.descriptor.size - done:
            return True
        self._indexes.spend(self.descriptor, done)
        return False

    def jobs(
        self,
        entries: Collection[Entry],
        files: Files,
        captured: Capture | None,
        make_spool: Callable[[], IO[bytes]],
    ) -> list[Job[Piece]]:
        """Return what reads contents: those of `captured` from there, the others by reading the layer again.

        `files` are which of `entries`, and what their contents are here. The layer's entries must be known if not all
        are captured.
        """
        here, again = Files(array("I"), array("I")), Files(array("I"), array("I"))
        for number, place in zip(*files, strict=True):
            (here if captured is not None and place in captured else again).add(number, place)
        jobs: list[Job[Piece]] = []
        if captured is not None:
            jobs.append(partial(_deliver, captured, entries, here))
        if again.numbers:
            jobs.append(partial(self._read_again, entries, again, make_spool))
        return jobs

    def _read_again(
        self, entries: Collection[Entry], files: Files, make_spool: Callable[[], IO[bytes]]
    ) -> Generator[Piece, None, None]:
        known, last = self.entries(), max(files.places)
        wanted = bytearray(last + 1)
        for place in files.places:
            wanted[place] = 1

        def is_wanted(number: int, _path: str) -> bool:
            return number <= last and wanted[number] > 0

        def check(number: int, entry: Entry) -> bool:
            if is_wanted(number, entry.path):
                oci.check_match(entry.digest, known.entry(number).digest, f"{self._where}, {entry.path!r}")
            return number >= last

        with make_spool() as spool:
            capture = Capture(spool)
            until_right(partial(self.scan, capture, wanted=is_wanted, enough=check))
            yield from _deliver(capture, entries, files)


class Files(NamedTuple):
    """Some of many entries, by their numbers, and the numbers that their contents' entries have in a layer."""

    numbers: array[int]
    places: array[int]

    def add(self, number: int, place: int) -> None:
        """Take one more."""
        self.numbers.append(number)
        self.places.append(place)


def _deliver(capture: Capture, entries: Collection[Entry], files: Files) -> Generator[Piece, None, None]:
    for entry, place in zip(picked(entries, files.numbers), files.places, strict=True):
        yield from capture.pieces(entry, place)


class _Digests:
    """Works out what tells contents apart, and the records of files if they are wanted."""

    def __init__(self, *, with_records: bool) -> None:
        self._with_records = with_records
        self.records = bytearray()
        self._digests = ContentDigests()

    def known(self, number: int, entry: Entry, content: Content, capture: Capture | None) -> Entry:
        """Return an entry with its digest, once its content has passed by, to be captured if that is wanted."""
        assert not isinstance(content, OpenFile)
        pieces: Iterable[Buffer | int] = (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content
        segments: list[Segment] = []
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
            capture.keep(number, segments)
        if record is not None:
            self.records.extend(bytes(DIGEST_SIZE * number - len(self.records)))
            self.records += record.digest()
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
