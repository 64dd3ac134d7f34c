"""Blobs held open for a moment, so that not every request has to find and open its own."""

from __future__ import annotations

import asyncio
import errno
import os
import time
import weakref
from io import FileIO
from pathlib import Path

from shipway.errors import NotFound, ShipwayError, Unavailable
from shipway.server.backend import Backend
from shipway.server.work import Work

MOST = 64
"""Blobs that are held at a time."""
HELD = 1.0
"""Seconds for which one is held, at most, before the backend is asked again."""
_LOOK = 0.05
"""Seconds between two looks for files that were removed, which take up the disk until they are closed, or replaced."""


class OpenBlob:
    """The file of a blob, for any number of readers; closed when the last of them has let go."""

    __slots__ = ("__weakref__", "_can_tell", "_path", "_since", "digest", "file", "size")

    def __init__(self, digest: str, path: Path, file: FileIO) -> None:
        """Take over `file`, which is open at `path`."""
        self._path = os.fsencode(path)
        self.digest = digest
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self._since = time.monotonic()
        self._can_tell = True
        weakref.finalize(self, file.close)  # may be called anywhere, by the collector: nothing that takes a lock

    def is_there(self) -> bool:
        """Whether the blob is in its place. Asked for each request, so it has to be quick: access(2), no more."""
        return os.access(self._path, os.F_OK)

    def is_current(self, now: float) -> bool:
        """Whether it may still be held: not for too long yet, and neither removed nor replaced."""
        return now - self._since < HELD and os.fstat(self.file.fileno()).st_nlink > 0

    def read_now(self, first: int, count: int) -> bytes | bytearray | None:
        """Return `count` bytes from `first` on; None if they are not in memory, so that the disk has to be waited for.

        Not every file system can tell (tmpfs and overlayfs do not); those are read without asking.
        """
        if self._can_tell:
            data = bytearray(count)
            try:
                return data if os.preadv(self.file.fileno(), [data], first, os.RWF_NOWAIT) == count else None
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._can_tell = False
        return self.read(first, count)

    def read(self, first: int, count: int) -> bytes:
        """Return `count` bytes from `first` on."""
        data = os.pread(self.file.fileno(), count, first)
        if len(data) < count:
            raise ShipwayError("the blob is shorter than it was", where=self.digest, todo="run `shipway verify`")
        return data


class Opened:
    """The blobs of a backend that somebody asked for within the last second."""

    def __init__(self, backend: Backend, work: Work) -> None:
        self._backend = backend
        self._work = work
        self._held: dict[str, OpenBlob] = {}

    async def get(self, digest: str) -> OpenBlob:
        """Return a blob, open; `NotFound` if it is not here."""
        blob = self._held.get(digest)
        if blob is None or not blob.is_there():
            blob = await self._work.quick(lambda: self._open(digest))
            self._hold(blob)
        return blob

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._held.clear()

    def _open(self, digest: str) -> OpenBlob:
        path, _ = self._backend.blob_path(digest)
        return OpenBlob(digest, path, _opened(path, digest))

    def _hold(self, blob: OpenBlob) -> None:
        if not self._held:
            asyncio.get_running_loop().call_later(_LOOK, self._look)
        elif len(self._held) >= MOST:
            del self._held[next(iter(self._held))]
        self._held[blob.digest] = blob

    def _look(self) -> None:
        now = time.monotonic()
        self._held = {digest: blob for digest, blob in self._held.items() if blob.is_current(now)}
        if self._held:
            asyncio.get_running_loop().call_later(_LOOK, self._look)


def _opened(path: Path, digest: str) -> FileIO:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise NotFound("no such blob", where=digest) from None
    except OSError as error:
        raise Unavailable(f"cannot be read: {error.strerror}", where=digest) from error
