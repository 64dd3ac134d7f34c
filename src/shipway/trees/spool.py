"""Bytes that grow at their end and are read again: a few in memory, more than that in a file without a name."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterator

from shipway.errors import Unavailable
from shipway.trees.entry import Buffer

_MEMORY = 256 << 10
"""Bytes that are in memory at most."""
_PIECE = 1 << 20
_MOST_FILES = 256
"""Files that are open at a time in this process, which may have 1,024 descriptors in all."""
_files: set[int] = set()
_DIRECTORY = "/var/tmp"  # noqa: S108  as SQLite does: /tmp may be memory, and a file without a name is nobody's prey


class Spool:
    """Bytes that grow at their end. One thread may write at a time, any may read what was written.

    The file is in `TMPDIR`, or else in /var/tmp. Where there is no room for one, or there are many already, they stay
    in memory.
    """

    def __init__(self, data: Buffer = b"") -> None:
        """Begin with `data`."""
        self._recent = bytearray()
        self._written = 0
        """Bytes that are in the file; the others come after them."""
        self._fd = -1
        self._stays = False
        if data:
            self.add(data)

    def add(self, data: Buffer) -> None:
        """Put more at the end."""
        if len(self._recent) + len(data) < _MEMORY or self._stays:
            self._recent += data
            return
        try:
            self._write(self._recent)
            self._recent = bytearray()
            self._write(data)
        except OSError:  # most likely there is no room
            self._stays = True
            self._recent += data

    def _write(self, data: Buffer) -> None:
        """Write all of `data` behind what is in the file, or nothing that counts."""
        if self._fd < 0:
            self._fd = _opened()
            weakref.finalize(self, _close, self._fd)
        done = 0
        with memoryview(data) as view:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], self._written + done)
        self._written += done

    def read(self, start: int, end: int) -> bytes:
        """Return what is from one place up to another; raises `Unavailable` if the file cannot be read."""
        if start >= self._written:
            return bytes(self._recent[start - self._written : end - self._written])
        size = min(end, self._written) - start
        try:
            data = os.pread(self._fd, size, start)
        except OSError as error:
            raise Unavailable(f"a temporary file cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise Unavailable("a temporary file has become shorter")
        return data + self._recent[: end - self._written] if end > self._written else data

    def digest(self) -> str:
        """Return the sha256 of all of it."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return f"sha256:{digest.hexdigest()}"

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, piece by piece."""
        for start in range(0, len(self), _PIECE):
            yield self.read(start, min(start + _PIECE, len(self)))

    def __len__(self) -> int:
        return self._written + len(self._recent)


def _opened() -> int:
    if len(_files) >= _MOST_FILES:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    chosen = os.environ.get("TMPDIR") or (_DIRECTORY if os.path.isdir(_DIRECTORY) else None)
    with tempfile.TemporaryFile(dir=chosen, prefix="shipway-", buffering=0) as file:
        fd = os.dup(file.fileno())
    _files.add(fd)
    return fd


def _close(fd: int) -> None:
    _files.discard(fd)
    os.close(fd)
