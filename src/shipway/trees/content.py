"""A regular file's content, written to an open file of this machine: cloned, copied or byte by byte."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from shipway.errors import SizeMismatch, Truncated
from shipway.trees.entry import Buffer, Content, OpenFile

FICLONE = 0x40049409
"""ioctl_ficlonerange(2): share all of another file's blocks, copying on write."""

_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ENOSYS, errno.EBADF)
_NO_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_PIECE = 1 << 30
_BLOCK = 512
_SMALL = 64 << 10


def can_clone(directory: Path) -> bool:
    """Whether the file system of a directory shares the blocks of files that are copied."""
    with tempfile.TemporaryFile(dir=directory) as one, tempfile.TemporaryFile(dir=directory) as other:
        one.write(bytes(_BLOCK * 8))
        one.flush()
        try:
            fcntl.ioctl(other.fileno(), FICLONE, one.fileno())
        except OSError:
            return False
    return True


class ContentWriter:
    """Writes contents, remembering whether cloning works here so that it is tried only once."""

    def __init__(self) -> None:
        self._clone = True

    def write(self, fd: int, content: Content, size: int, path: str) -> None:
        """Write exactly `size` bytes to the new, empty file `fd`.

        Raises `Truncated` or `SizeMismatch`, naming `path`, if there are fewer or more; never writes more.
        """
        if isinstance(content, (bytes, bytearray, memoryview)):
            count = len(content) if not isinstance(content, memoryview) else content.nbytes
            check_size(count, size, path)
            if count:
                write_all(fd, content, count)
        elif isinstance(content, OpenFile):
            self._copy(content.fd, fd, size, path)
        else:
            _write_pieces(fd, content, size, path)

    def _copy(self, source: int, fd: int, size: int, path: str) -> None:
        if not self._clone and size <= _SMALL:
            data = os.read(source, size + 1)  # a page or some: less work than the calls that copy in the kernel
            check_size(len(data), size, path)
            if size:
                write_all(fd, data, size)
            return
        st = os.fstat(source)
        check_size(st.st_size, size, path)
        if not size:
            return
        if self._clone:
            try:
                fcntl.ioctl(fd, FICLONE, source)
            except OSError as error:
                if error.errno not in _NO_CLONE:
                    raise
                self._clone = False
            else:
                check_size(os.fstat(fd).st_size, size, path)
                return
        if st.st_blocks * _BLOCK < size:
            _copy_sparse(source, fd, size, path)
        else:
            _copy_range(source, fd, size, path)


def check_size(actual: int, expected: int, path: str) -> None:
    """Raise `Truncated` or `SizeMismatch`, naming `path`, unless the sizes agree."""
    if actual < expected:
        raise Truncated(f"content ended after {actual} of {expected} bytes", where=path)
    if actual > expected:
        raise SizeMismatch(f"content has more than the {expected} bytes promised", where=path)


def write_all(fd: int, data: Buffer, count: int) -> None:
    """Write all `count` bytes of `data`."""
    written = os.write(fd, data)
    if written < count:
        rest = memoryview(data).cast("B")
        while written < count:
            written += os.write(fd, rest[written:])


def _write_pieces(fd: int, pieces: Iterable[Buffer | int], size: int, path: str) -> None:
    done = 0
    hole = False
    for piece in pieces:
        hole = isinstance(piece, int)
        count = (
            piece if isinstance(piece, int) else len(piece) if isinstance(piece, bytes) else memoryview(piece).nbytes
        )
        if count < 0 or done + count > size:
            check_size(size + 1, size, path)
        if isinstance(piece, int):
            os.lseek(fd, count, os.SEEK_CUR)
        elif count:
            write_all(fd, piece, count)
        done += count
    check_size(done, size, path)
    if hole:
        os.ftruncate(fd, size)


def _copy_sparse(source: int, fd: int, size: int, path: str) -> None:
    """Copy only what SEEK_DATA says is data, then set the length."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that only a hole is left
                raise
            break
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        if start >= end:
            break
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(fd, start, os.SEEK_SET)
        _copy_range(source, fd, end - start, path)
        position = end
    os.ftruncate(fd, size)


def _copy_range(source: int, fd: int, count: int, path: str) -> None:
    left = count
    in_kernel = True
    while left:
        try:
            copied = (os.copy_file_range if in_kernel else _sendfile)(source, fd, min(left, _PIECE))
        except OSError as error:
            if not in_kernel or error.errno not in _NO_RANGE:
                raise
            in_kernel = False  # another file system: through the page cache then
            continue
        if not copied:
            raise Truncated(f"the file became shorter by {left} bytes while it was copied", where=path)
        left -= copied


def _sendfile(source: int, fd: int, count: int) -> int:
    return os.sendfile(fd, source, None, count)
