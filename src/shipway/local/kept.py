"""Pieces of remote layers that were fetched and may be of use again: chunks of files, and tables of contents.

They lie one after the other in a few files, as they came, compressed; a row of the database says of each
file which digests are where. A piece is found by the digest of what it holds, and whoever takes one checks it against
that: nothing here is flushed, nor trusted. All of it can be fetched again, so it is the first to go when room is
wanted, the least recently used file first, and failing to keep something is no error.

Plain files, one a piece, take half as much time again to write and half as much room on top; a table of SQLite takes
four times as long (30,000 pieces of 5 KB). So files of many pieces it is.

Beside them lie *partials*: blobs that were not fetched to their end, see `shipway.local.partial`.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from shipway.local.database import Database
from shipway.local.digests import matching, prefix, prefixes
from shipway.local.partial import Partial
from shipway.oci import check_digest
from shipway.trees.entry import Buffer
from shipway.trees.spool import Spool

LIMIT = 1 << 30
"""Bytes that are kept at most."""
PACK = 64 << 20
"""Bytes of a file after which another one is begun."""
_PIECES = 1 << 17
"""Pieces of a file after which another one is begun: what is written down of them is read at once."""
_FLUSH = 8 << 20
"""Bytes after which what was written is found by others, and survives our death."""
_REMEMBERED = 1 << 15
"""Pieces of which it is known that they were taken already."""
_MANY = 32
"""Small files that are put together when there are this many."""
_SMALL = 2 << 20


class Piece(NamedTuple):
    """Where a piece is: a file's name, and its bytes in there."""

    pack: str
    offset: int
    length: int


class Kept:
    """The pieces that a store keeps. Thread-safe; processes may share it."""

    def __init__(self, root: Path, database: Database, limit: int = LIMIT) -> None:
        """Keep at most `limit` bytes in `root/kept`, described in `database`."""
        self.directory = root / "kept"
        self._database = database
        self.limit = limit

    def find(self, digests: Iterable[str]) -> dict[str, Piece]:
        """Return where those of `digests` are that are here, and note that they were used."""
        wanted = {prefix(digest): digest for digest in digests}
        return {wanted[key]: piece for key, piece in self.locate(wanted).items()}

    def locate(self, wanted: Collection[int]) -> dict[int, Piece]:
        """Return where those of `wanted`, beginnings of digests, are that are here, and note that they were used."""
        found: dict[int, Piece] = {}
        used: set[str] = set()
        for (name,) in self._database.read("SELECT name FROM kept ORDER BY used DESC") if wanted else ():
            for known, places in self._database.read("SELECT digests, places FROM kept WHERE name = ?", name):
                for key, index in matching(wanted, known):
                    if key not in found:
                        at = array("Q")
                        at.frombytes(places[16 * index : 16 * index + 16])
                        found[key] = Piece(name, at[0], at[1])
                        used.add(name)
        if used:
            with self._database.write() as db:
                db.executemany("UPDATE kept SET used = ? WHERE name = ?", [(time.time_ns(), name) for name in used])
        return found

    def read(self, piece: Piece) -> bytes:
        """Return the bytes of a piece, none if its file is gone by now."""
        try:
            fd = os.open(self.directory / piece.pack, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, piece.length, piece.offset)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def get(self, digest: str) -> bytes:
        """Return the piece with a digest, not checked; none if it is not here."""
        piece = self.find([digest]).get(digest)
        return self.read(piece) if piece else b""

    def put(self, digest: str, data: Buffer | Spool) -> None:
        """Keep one piece."""
        with self.writing() as pack:
            pack.add(digest, data)

    def writing(self) -> Pack:
        """Return what keeps pieces; use it as a context manager."""
        return Pack(self)

    def partial(self, digest: str) -> Partial | None:
        """Return the file that a blob is fetched into, to go on with; None while somebody else has it."""
        return Partial.take(self.directory / f"partial-{check_digest(digest).removeprefix('sha256:')}")

    # Room

    def size(self) -> int:
        """Return the bytes of all files in `kept/`, partials too."""
        with os.scandir(self.directory) as items:
            return sum(item.stat().st_blocks * 512 for item in items)

    def free(self, wanted: int | None = None, *, unused_for: float | None = None) -> int:
        """Remove what was not used for longest until `wanted` bytes are freed (None: all); return how many were.

        With `unused_for` what was used in so many seconds stays. Partials go first, but for those that somebody is
        going on with.
        """
        before = time.time_ns() - int((unused_for or 0) * 1e9)
        freed = 0
        for path in sorted(self.directory.glob("partial-*")):
            with suppress(FileNotFoundError):
                if (wanted is None or freed < wanted) and path.stat().st_mtime_ns <= before:
                    freed += Partial.remove(path)
        for (name,) in self._database.read("SELECT name FROM kept WHERE used <= ? ORDER BY used", before):
            if wanted is not None and freed >= wanted:
                break
            freed += self._remove(name)
        return freed

    def strays(self) -> list[str]:
        """Return the names of files that nobody will find; while somebody else has the store open they may be new."""
        names = {name for name in os.listdir(self.directory) if not Partial.is_fresh(self.directory / name)}
        return sorted(names - {name for (name,) in self._database.read("SELECT name FROM kept")})

    def sweep(self) -> None:
        """Remove strays; only while nobody else has the store open."""
        for name in self.strays():
            (self.directory / name).unlink()

    def trim(self) -> None:
        """Keep to the limit, and put small files together if there are many."""
        rows = self._database.read("SELECT name, bytes FROM kept ORDER BY used DESC")
        total = 0
        small = []
        for name, size in rows:
            total += size
            if total > self.limit or not (self.directory / name).exists():
                self._remove(name)
            elif size < _SMALL:
                small.append(name)
        if len(small) >= _MANY:
            self._join(small)

    def _join(self, names: Sequence[str]) -> None:
        with closing(self.writing()) as pack:
            for name in names:
                for known, places in self._database.read("SELECT digests, places FROM kept WHERE name = ?", name):
                    at = array("Q")
                    at.frombytes(places)
                    for index, key in enumerate(prefixes(known)):
                        data = self.read(Piece(name, at[2 * index], at[2 * index + 1]))
                        if data:
                            pack.append(key, data)
        for name in names:
            self._remove(name)

    def _remove(self, name: str) -> int:
        size = 0
        with self._database.write() as db:
            db.execute("DELETE FROM kept WHERE name = ?", (name,))
        with suppress(OSError):
            path = self.directory / name
            size = path.stat().st_blocks * 512
            path.unlink()
        return size

    def record(self, name: str, digests: Iterable[int], places: Iterable[int], size: int) -> None:
        """Let a file's pieces be found."""
        values = (name, array("Q", digests).tobytes(), array("Q", places).tobytes(), size, time.time_ns())
        with self._database.write() as db:
            db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", values)


class Pack:
    """Pieces on their way into files of `Kept`. Thread-safe.

    Leaving its block lets the pieces be found, also when it is left by an error; `discard` removes them all. When
    the disk is full nothing more is kept.
    """

    def __init__(self, kept: Kept) -> None:
        """Begin a file with the first piece."""
        self._kept = kept
        self._lock = threading.Lock()
        self._fd = -1
        self._name = ""
        self._names: list[str] = []
        self._digests = array("Q")
        self._places = array("Q")
        self._size = self._recorded = self._total = 0
        self._stopped = False
        self._mine: set[int] = set()
        """The pieces taken last; of one that comes again after many others there is no harm in two."""

    def add(self, digest: str, data: Buffer | Spool) -> None:
        """Keep `data`, which holds what has the digest `digest`."""
        self.append(prefix(digest), data)

    def __contains__(self, digest: str) -> bool:
        return prefix(digest) in self._mine

    def append(self, key: int, data: Buffer | Spool) -> None:
        """Keep `data` under the beginning of a digest."""
        with self._lock:
            if self._stopped or key in self._mine or not len(data):
                return
            start = self._size
            try:
                for piece in data.pieces() if isinstance(data, Spool) else (data,):
                    self._write(piece)
            except OSError:  # most likely the disk is full
                self._stopped = True
                return
            if len(self._mine) == _REMEMBERED:
                self._mine.clear()
            self._mine.add(key)
            self._digests.append(key)
            self._places.extend((start, len(data)))
            if self._size - self._recorded > _FLUSH:
                self._record()
            if self._size > PACK or len(self._digests) >= _PIECES:
                self._total += self._size
                self._end()
                self._stopped = self._total > self._kept.limit // 2  # leave room for others

    def _write(self, data: Buffer) -> None:
        if self._fd < 0:
            self._name = f"pack-{secrets.token_hex(8)}"
            path = self._kept.directory / self._name
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._names.append(self._name)
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], self._size + done)
        self._size += len(view)

    def _record(self) -> None:
        if self._digests:
            self._kept.record(self._name, self._digests, self._places, self._size)
        self._recorded = self._size

    def _end(self) -> None:
        if self._fd >= 0:
            self._record()
            os.close(self._fd)
            self._fd = -1
            self._digests, self._places = array("Q"), array("Q")
            self._size = self._recorded = 0

    def close(self) -> None:
        """Let the pieces be found, and take no more."""
        with self._lock:
            self._stopped = True
            self._end()

    def discard(self) -> None:
        """Remove all that was kept."""
        self.close()
        for name in self._names:
            self._kept._remove(name)  # noqa: SLF001  same module
        self._names = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._names:
            self._kept.trim()
