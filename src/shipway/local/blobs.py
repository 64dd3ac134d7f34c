"""Content-addressed blobs: files named by their digest, and what is known about them.

A blob appears under its name only when all its bytes are on disk and hash to
that name. Bytes on the way lie in `ingest/`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from shipway.errors import NoSpace, NotFound, Unavailable
from shipway.local.broken import unknown
from shipway.local.database import Database
from shipway.oci import Descriptor, check_digest, check_match, check_size
from shipway.trees.removal import remove_tree


class Blobs:
    """The blobs of one store."""

    def __init__(self, root: Path, database: Database) -> None:
        """Keep blobs in `root/blobs/sha256`, described in `database`."""
        self._directory = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._database = database

    def path(self, digest: str) -> Path:
        """Return where a blob is or would be; `Invalid` if it is not a digest."""
        return self._directory / check_digest(digest).removeprefix("sha256:")

    def get(self, digest: str) -> Descriptor | None:
        """Return the descriptor of a blob that is here, else None."""
        rows = self._database.read("SELECT media_type, digest, size, annotations FROM blobs WHERE digest = ?", digest)
        return _descriptor(*rows[0]) if rows else None

    def of_layer(self, diff_id: str) -> list[Descriptor]:
        """Return the blobs that hold a layer, newest first."""
        rows = self._database.read(
            "SELECT media_type, digest, size, annotations FROM blobs WHERE diff_id = ? ORDER BY created DESC, digest",
            diff_id,
        )
        return [_descriptor(*row) for row in rows]

    def open(self, digest: str) -> BinaryIO:
        """Return a blob's file opened for reading; `NotFound` if it is not here."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise NotFound("no such blob in this store", where=digest) from None

    def ingest(self) -> Ingest:
        """Return a new file to write a blob into; use it as a context manager."""
        return Ingest(self._ingest / f"blob-{secrets.token_hex(8)}")

    def keep(self, ingest: Ingest, descriptor: Descriptor, diff_id: str | None = None, *, packed: bool = False) -> None:
        """Make what was written into `ingest` the blob `descriptor`, whose digest the caller has verified.

        Raises `Truncated` or `SizeMismatch` if it has another size. A blob that is here already stays.
        `packed` says that it was made here, of a snapshot.
        """
        check_size(ingest.size(), descriptor.size, descriptor.digest)
        ingest.flush()
        with self._database.write() as db:
            # Inside the transaction: nobody can remove the blob between the two steps.
            ingest.move_to(self.path(descriptor.digest))
            db.execute(
                "INSERT INTO blobs (digest, size, media_type, diff_id, annotations, packed, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET diff_id = coalesce(excluded.diff_id, diff_id),"
                " media_type = CASE WHEN excluded.diff_id IS NULL THEN media_type ELSE excluded.media_type END,"
                " annotations = CASE WHEN excluded.annotations = '{}' THEN annotations ELSE excluded.annotations END,"
                " packed = max(packed, excluded.packed), created = excluded.created",
                (
                    descriptor.digest,
                    descriptor.size,
                    descriptor.media_type,
                    diff_id,
                    msgspec.json.encode(descriptor.annotations).decode(),
                    packed,
                    time.time_ns(),
                ),
            )

    def describe(self, descriptor: Descriptor, diff_id: str) -> None:
        """Remember of a blob that is here that it holds a layer."""
        with self._database.write() as db:
            db.execute(
                "UPDATE blobs SET media_type = ?, diff_id = ?, annotations = ? WHERE digest = ?",
                (
                    descriptor.media_type,
                    diff_id,
                    msgspec.json.encode(descriptor.annotations).decode(),
                    descriptor.digest,
                ),
            )

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob and return its descriptor."""
        with self.ingest() as ingest:
            ingest.write(data)
            descriptor = Descriptor(media_type=media_type, digest=ingest.digest, size=len(data))
            self.keep(ingest, descriptor)
        return descriptor

    def forget(self, digest: str) -> None:
        """Remove a blob: first from the database, then from disk."""
        self.forget_row(digest)
        self.remove_file(digest)

    def forget_row(self, digest: str) -> None:
        """Remove a blob from the database; `remove_file` follows when that is committed."""
        with self._database.write() as db:
            db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))

    def remove_file(self, digest: str) -> None:
        """Remove the file of a blob that has no row any more.

        Not in the transaction that removes the row: if that fails in the end, the blob has to be whole.
        """
        with self._database.write() as db:  # nobody can bring the blob back meanwhile
            if db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone() is None:
                self.path(digest).unlink(missing_ok=True)

    def drop_damaged(self, digest: str, seen: os.stat_result | None) -> bool:
        """Forget a blob whose file was `seen` to be damaged, or missing; return False if it has changed since."""
        path = self.path(digest)
        with self._database.write() as db:
            now = os.stat(path) if path.exists() else None
            if (now is None) != (seen is None) or (now and seen and not os.path.samestat(now, seen)):
                return False
            db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
            path.unlink(missing_ok=True)
        return True

    def orphans(self) -> list[str]:
        """Return the names of files that are no blob of this store."""
        with os.scandir(self._directory) as items:
            names = (item.name for item in items)
            return unknown(self._database, names, f"SELECT substr(digest, {len('sha256:') + 1}) FROM blobs")  # noqa: S608  constant

    def remove_orphan(self, name: str) -> None:
        """Remove a file that is no blob of this store, unless it has become one."""
        with self._database.write() as db:
            known = (
                name.isascii() and db.execute("SELECT 1 FROM blobs WHERE digest = ?", (f"sha256:{name}",)).fetchone()
            )
            if not known:
                fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    remove_tree(fd, name)
                finally:
                    os.close(fd)


class Ingest:
    """A blob being written, hashed on the way; gone when its block is left without `Blobs.keep`."""

    came = 0
    """Bytes that were there from the beginning."""

    def __init__(self, path: Path, *, new: bool = True) -> None:
        """Will be written at `path`, which must not be there if it is to be `new`."""
        self._path: Path | None = path
        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if new else 0)
        with disk_errors(path):
            self.file: BinaryIO = open(  # noqa: SIM115  closed in __exit__
                path, "rb+", buffering=0, opener=lambda path, _: os.open(path, flags, 0o666)
            )

    def write(self, data: bytes | memoryview) -> None:
        """Append and hash `data`; `NoSpace` if the disk is full."""
        self._hash.update(data)
        self.append(data)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, which the caller hashes; `NoSpace` if the disk is full."""
        with disk_errors(self._path):
            view = memoryview(data)
            while view:
                view = view[self.file.write(view) :]

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write `data`, which the caller hashes, at its place, from any thread; `NoSpace` if the disk is full."""
        with disk_errors(self._path):
            view = memoryview(data)
            while view:
                written = os.pwrite(self.file.fileno(), view, offset)
                view, offset = view[written:], offset + written

    def cut(self, length: int) -> None:
        """Throw away all but the first `length` bytes, and append to these from now on."""
        with disk_errors(self._path):
            self.file.truncate(length)
            self.file.seek(length)

    @property
    def kept(self) -> bool:
        """Whether its file is a blob of the store now, and to be left alone."""
        return self._path is None

    @property
    def digest(self) -> str:
        """The digest of what went through `write`."""
        return "sha256:" + self._hash.hexdigest()

    def size(self) -> int:
        """Return how long the file is."""
        return os.fstat(self.file.fileno()).st_size

    def begin_again(self) -> None:
        """Throw away what came so far."""
        self.cut(0)
        self._hash = hashlib.sha256()
        self.came = 0

    def check(self, digest: str) -> None:
        """Raise `DigestMismatch` unless what went through `write` hashes to `digest`."""
        check_match(self.digest, digest, digest)

    def flush(self) -> None:
        """Write all of it to the disk itself."""
        with disk_errors(self._path):
            os.fdatasync(self.file.fileno())

    def move_to(self, target: Path) -> None:
        """Appear as `target`, flushed before."""
        if self._path is None:
            raise ValueError("already kept")
        with disk_errors(self._path):
            os.rename(self._path, target)
        self._path = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


@contextmanager
def disk_errors(where: Path | str | None) -> Iterator[None]:
    """Turn what the disk refuses into `NoSpace` or `Unavailable`, naming `where`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                "no space left on the disk", where=str(where), todo="free some, or `shipway prune`"
            ) from error
        raise Unavailable(f"cannot be written: {error.strerror}", where=str(where)) from error
    except OverflowError as error:
        raise Unavailable("cannot be written: beyond what a file can hold", where=str(where)) from error


def _descriptor(media_type: str, digest: str, size: int, annotations: str) -> Descriptor:
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=msgspec.json.decode(annotations, type=dict[str, str]),
    )
