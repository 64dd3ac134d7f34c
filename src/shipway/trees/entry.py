"""What a tree is made of, and the contracts for reading and writing one.

Paths are `str`, relative to the tree's root, `/`-separated, without a leading
or trailing slash; the root itself is `""`. Bytes that are not UTF-8 are held
as surrogate escapes, as `os.fsdecode` does. The order of paths, wherever there is
one, is that of a walk that visits each directory's names in byte order
(`path_key`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, Literal, Protocol, Self

import msgspec

from shipway.errors import UnsafeEntry

Kind = Literal["dir", "reg", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque"]
"""The types of the zstd:chunked and eStargz tables of contents, and two that only layers have.

`whiteout` removes what lower layers have at its path; `opaque` removes what
they have *below* its path (image-spec, layer.md, Whiteouts).
"""

Buffer = bytes | bytearray | memoryview
MAX_PATH = 4096
"""Longest path in a layer: what Linux takes at once (PATH_MAX). What is deeper could be mounted, not reached."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A piece of a file's content inside a layer blob.

    `offset` and `length` are where its compressed bytes are in the blob;
    `start` and `size` where its content is in the file; `digest` is the sha256 of
    that content, empty for a hole (`zeros`), whose bytes need not be fetched.
    """

    offset: int
    length: int
    start: int
    size: int
    digest: str
    zeros: bool = False
    inner: int = 0
    """How many bytes of what is compressed there come before the content: other files', or headers."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One object of a tree, or one change of a layer.

    In a *layer* a further name of a file is a `hardlink` entry whose `link` is
    the path of the first. In a *tree* each name is a full `reg` (or other) entry, and
    names of one file share an `inode` that is not 0.
    """

    path: str
    kind: Kind
    mode: int = 0
    """Permission bits with setuid, setgid and sticky: `st_mode & 0o7777`."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Bytes of content; 0 for everything but `reg`."""
    mtime_ns: int = 0
    link: str = ""
    """A symlink's target as written, or a hardlink's path in the tree."""
    dev: tuple[int, int] = (0, 0)
    """Major and minor number of a `char` or `block` device."""
    xattrs: dict[str, bytes] = {}
    inode: int = 0
    digest: str = ""
    """What tells a `reg`'s content from others where it is known: its sha256, or of one with holes in an archive
    some other hash. Never set for an empty file."""
    chunks: tuple[Chunk, ...] = ()

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.kind == "dir"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == "reg"


def implied(path: str) -> Entry:
    """Return the directory that is made where no layer lists one: of whoever makes it, 0755, time 0."""
    return Entry(path=path, kind="dir", mode=0o755, uid=os.geteuid(), gid=os.getegid())


class OpenFile:
    """Content that is a file of this machine: an open descriptor at offset 0, which its owner closes.

    With `link` the file never changes and has the very metadata of its entry,
    so that a sink on the same file system may make it a hard link.
    """

    __slots__ = ("fd", "link")

    def __init__(self, fd: int, *, link: bool = False) -> None:
        """Wrap `fd` without taking it over."""
        self.fd = fd
        self.link = link


Content = Buffer | OpenFile | Iterator[Buffer | int]
"""A regular file's content: all of it, an open file to clone from, or pieces in order.

A piece that is an `int` stands for that many zero bytes (a hole). A buffer
is valid until the next piece or entry is asked for.
"""


class Tree(Protocol):
    """A tree that can be looked at and read, wherever it is. No method follows a symlink."""

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Content]]:
        """Yield each of the `reg` entries, all taken from this tree, with its content.

        The order is whatever is best for the tree. Content is checked against
        its digest before it is handed over where the tree knows one.
        """


class SeekableTree(Tree, Protocol):
    """A tree whose files can be read from any place on."""

    def open_file(self, entry: Entry) -> BinaryIO:
        """Return the content of a `reg` entry taken from this tree as a buffered, seekable, read-only file.

        It stays good when the tree is closed. Content is checked as with `read`.
        """


class LocalTree(SeekableTree, Protocol):
    """A tree whose files can be opened one by one."""

    def open(self, path: str) -> int:
        """Return a read-only descriptor of the regular file at `path`; the caller closes it."""


class TreeSink(Protocol):
    """Takes entries and contents and makes a tree, or a layer over one, of them.

    A context manager: nothing is visible until `finish()`; leaving the block
    without it removes everything.
    """

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Take one entry, with its content if it is a `reg`.

        A parent directory that was not added is made (or, over lower layers, taken from them).
        A later entry for the same path replaces the earlier one, a directory over a directory
        only its metadata. `hardlink` needs its target added before, or in a lower
        layer. Raises `UnsafeEntry` for one that would reach outside the tree and
        `Truncated` or `SizeMismatch` when content is not `entry.size` bytes.
        """

    def finish(self) -> None:
        """Complete the tree (directory times come last), flush it and make it visible."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def path_key(path: str) -> bytes:
    """Return the sort key of a path: byte order with `/` lowest, so children follow their directory."""
    return os.fsencode(path).replace(b"/", b"\0")


def name_key(name: str) -> bytes:
    """Return the sort key of a single name: its bytes."""
    return os.fsencode(name)


def parent_of(path: str) -> str:
    """Return the path of the directory that holds `path`; the root's is the root."""
    return path.rpartition("/")[0]


def join(directory: str, name: str) -> str:
    """Return the path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def clean_archive_path(name: str, where: str) -> str:
    """Return an archive's name as a tree path.

    `./`, a trailing slash and empty components are dropped. Raises `UnsafeEntry` for an
    absolute name (but the root's own), one with `..` or a NUL.
    """
    if "//" not in name and "/." not in name and not name.startswith((".", "/")) and "\0" not in name:
        return name.rstrip("/")
    if name == "/":  # umoci's name for the root directory
        return ""
    if name.startswith("/"):
        raise UnsafeEntry(f"absolute name {name[:200]!r}", where=where)
    if "\0" in name:
        raise UnsafeEntry(f"name with a NUL byte {name[:200]!r}", where=where)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnsafeEntry(f"name with '..' {name[:200]!r}", where=where)
    return "/".join(parts)
