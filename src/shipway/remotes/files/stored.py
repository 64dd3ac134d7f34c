"""Files inside something: by name, with random access, whether they lie in a directory, a tar or memory."""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from shipway.errors import Corrupt, Invalid, NotFound, Unauthorized, Unavailable, UnsafeEntry
from shipway.layers.blocks import BUFFER_SIZE, Blocks
from shipway.layers.headers import BLOCK
from shipway.layers.tar import TarReader, is_archive
from shipway.trees.entry import Entry

_MAX_MEMBERS = 100_000
_MAX_LINKS = 8
#: First bytes of the compressions that whole archives come in.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Section(Protocol):
    """A run of bytes that can be read from anywhere."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on; fewer only at the end."""


class Stored(Protocol):
    """Files by name; thread-safe."""

    def open(self, name: str) -> AbstractContextManager[Section]:
        """Return a context manager that yields a file; `NotFound` if there is none."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, slots=True)
class FileSection:
    """A part of an open file."""

    fd: int
    start: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on."""
        return os.pread(self.fd, min(length, self.size - offset), self.start + offset)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on."""
        return self.data[offset : offset + length]


class Directory:
    """The files of a directory."""

    def __init__(self, path: str) -> None:
        """Read below `path`, which need not be there."""
        self.path = path

    @contextmanager
    def open(self, name: str) -> Iterator[Section]:
        """Yield a regular file; what is none is not waited for, and `Corrupt`."""
        path = f"{self.path}/{name}"
        fd = open_file(path)
        try:
            yield FileSection(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Do nothing: each file is closed when it was read."""


class Tar:
    """The regular files of an uncompressed tar, read where they stand; its headers are read once, on first use.

    Raises `Corrupt` and its kinds for what is not a tar, and `UnsafeEntry` for names and links that lead out of it.
    """

    def __init__(self, path: str) -> None:
        """Read the archive at `path`; nothing is opened yet."""
        self._path = path
        self._lock = threading.Lock()
        self._fd = -1
        self._members: dict[str, _Member] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[Section]:
        """Yield a member, going through links."""
        yield self.find(name)

    def find(self, name: str) -> Section:
        """Return a member, which can be read until the archive is closed; `NotFound`."""
        self._read_headers()
        for _ in range(_MAX_LINKS):
            member = self._members.get(name)
            if member is None:
                raise NotFound("no such file in the archive", where=f"{self._path}: {name!r}")
            if member.link is None:
                return FileSection(self._fd, member.start, member.size)
            name = member.link
        raise UnsafeEntry(f"more than {_MAX_LINKS} links to follow", where=f"{self._path}: {name!r}")

    def __contains__(self, name: str) -> bool:
        """Whether there is such a member."""
        self._read_headers()
        return name in self._members

    def _read_headers(self) -> None:
        with self._lock:
            if self._fd < 0:
                self._open()

    def _open(self) -> None:
        fd = open_file(self._path)
        try:
            beginning = os.pread(fd, BLOCK, 0)
            _refuse_others(beginning, self._path)
            self._members = _index(fd, self._path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def close(self) -> None:
        """Close the archive."""
        with self._lock, suppress(OSError):
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._members = -1, {}


def _refuse_others(beginning: bytes, where: str) -> None:
    for sign, kind in _COMPRESSED.items():
        if beginning.startswith(sign):
            raise Invalid(f"is compressed with {kind}", where=where, todo="decompress it")
    if not is_archive(beginning):
        raise Corrupt("is no tar archive", where=where)


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a file stands in an archive, or which other member it is."""

    start: int = 0
    size: int = 0
    link: str | None = None


def _index(fd: int, where: str) -> dict[str, _Member]:
    """Return the files and links of a tar by their clean names; contents are passed over."""
    blocks = _SeekingBlocks(fd)
    members: dict[str, _Member] = {}
    for entry, content in TarReader(blocks, where):
        if entry.kind == "reg":
            if isinstance(content, (bytes, bytearray, memoryview)):
                stored, start = len(content), blocks.offset - len(content)
            else:
                stored, start = blocks.left, blocks.offset
            if stored != entry.size:
                raise Corrupt("a sparse file, of which parts cannot be read", where=f"{where}: {entry.path!r}")
            member = _Member(start, stored)
        elif entry.kind in ("symlink", "hardlink"):
            member = _Member(link=_target(entry, where))
        else:
            continue
        if entry.path in members or len(members) >= _MAX_MEMBERS:
            raise Corrupt("a name that stands there twice, or one too many", where=f"{where}: {entry.path[:200]!r}")
        members[entry.path] = member
    return members


def _target(entry: Entry, where: str) -> str:
    """Return the name of the member that a link means; `UnsafeEntry` if that is outside of the archive."""
    if entry.kind == "hardlink":
        return entry.link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link))
    if target.startswith(("/", "../")) or target in ("..", "."):
        raise UnsafeEntry(f"a link to {entry.link[:200]!r}, outside of the archive", where=f"{where}: {entry.path!r}")
    return target


class _SeekingBlocks(Blocks):
    """Blocks of a file, of which what is passed over is not read."""

    __slots__ = ("_fd", "_next")

    def __init__(self, fd: int) -> None:
        super().__init__(iter(()))
        self._fd = fd
        self._next = 0
        """Where in the file the next buffer begins."""

    @property
    def offset(self) -> int:
        """Where in the file the next unread byte is."""
        return self._next - (self.end - self.position)

    def refill(self) -> bool:
        data = os.pread(self._fd, BUFFER_SIZE, self._next)
        self._next += len(data)
        self.buffer = bytearray(data)
        self.view = memoryview(self.buffer)
        self.position, self.end = 0, len(data)
        return bool(data)

    def skip(self, size: int, where: str) -> None:
        if size > self.end - self.position:
            to = self.offset + size
            if to > os.fstat(self._fd).st_size:
                super().skip(size, where)  # raises, having read to the end
            self._next, self.position, self.end = to, 0, 0
        else:
            self.position += size


def open_file(path: str) -> int:
    """Return a descriptor of a regular file, opened for reading; a typed error for anything else."""
    try:
        # A FIFO must not keep us waiting.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("no such file", where=path) from error
    except PermissionError as error:
        raise Unauthorized("may not be read", where=path) from error
    except OSError as error:
        raise Unavailable(f"cannot be read: {error.strerror}", where=path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Corrupt("is no regular file", where=path)
    return fd
