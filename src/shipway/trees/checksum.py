r"""Content checksums: digests of what a tree holds, whoever made it and when. They equal BuildKit's.

The *record* of an object is the sha256 of its header, each field as key and value with
nothing between, and its content. The name is not in it, nor are times; owners, mode and xattrs are. Of a
file with several names each has the same record. A directory's checksum is that of a list: for itself (its
header) and each child, in byte order, `\0`, the name and the digest. So a checksum says which
bytes a step of a build sees, and nothing of how they came there.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, tee
from typing import NamedTuple

from shipway.errors import NotFound
from shipway.trees.content import check_size
from shipway.trees.diff import walk
from shipway.trees.entry import Content, Entry, OpenFile, name_key, path_key
from shipway.trees.included import Included, Inclusion, Walk, clean, included
from shipway.trees.select import Listing, resolve

Records = Callable[[Iterable[Entry]], Iterable[str]]
"""Returns the digests of the records of entries of one tree, in order; for a directory, of its header.

It remembers those that cost something, and takes entries as it likes: one at a time, or so many that it is worth while
to fetch what of them is lacking.
"""

PREFIX = "sha256:"
DIGEST_SIZE = 32
"""Bytes of a digest without that."""
_TYPES = {"reg": b"0", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


class Checksums:
    """The content checksums of one tree, which never changes. Thread-safe.

    Entries are gone through one after the other, and of directories that were hashed only the digest is kept.
    """

    def __init__(self, tree: Listing, records: Records, walked: Walk | None = None) -> None:
        """Look at `tree`, whose objects have the `records`; `walked` is how to go through it, if not name by name."""
        self._tree = tree
        self._records = records
        self._walked = walked or partial(walk, tree)
        self._known: dict[str, str] = {}
        """The digests of directories, by path."""
        self._lock = threading.Lock()

    def checksum(
        self,
        path: str = "/",
        *,
        follow: bool = True,
        wildcard: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> str:
        """Return the digest; see `shipway.refs.ImmutableRef.checksum`."""
        with self._lock:
            if not wildcard and not include and not exclude:
                return self._whole(self._found(path, follow=follow))
            found = included(self._tree, self._walked, path, wildcard=wildcard, include=include, exclude=exclude)
            return self._listed(found, _base(path), follow=follow)

    def _found(self, path: str, *, follow: bool) -> Entry:
        entry = self._tree.get(resolve(self._tree, clean(path), follow_last=follow))
        if entry is None:
            raise NotFound("is not in the tree", where=path)
        return entry

    def _whole(self, entry: Entry) -> str:
        known = self._known.get(entry.path)
        if known is None:
            (known,) = self._digests([_Wanted(entry, whole=True)])
        return known

    def _listed(self, found: Inclusion, base: str, *, follow: bool) -> str:
        """Return the digest of a list: what a symlink at the top leads to, of a directory its header."""
        items, copy = tee(found.items)
        digests = self._digests(self._wanted(item, follow=follow) for item in copy)
        listed = hashlib.sha256()
        count, last = 0, ("", "")
        for item, digest in zip(items, digests, strict=True):
            count, last = count + 1, (item.path, digest)
            name = item.path.removeprefix(found.prefix)
            listed.update(path_key("/" + name.lstrip("/") if name else "/") + digest.encode())
        if count == 1 and _base(last[0]) == base:
            return last[1]
        return PREFIX + listed.hexdigest()

    def _wanted(self, item: Included, *, follow: bool) -> _Wanted:
        if follow and item.is_top and item.entry.kind == "symlink":
            return _Wanted(self._found(item.path, follow=True), whole=True)
        return _Wanted(item.entry, whole=False)

    def _digests(self, wanted: Iterable[_Wanted]) -> Iterator[str]:
        """Yield the digest of each; the records are asked for ahead of that."""
        steps, copy = tee(
            (number, one, entry)
            for number, one in enumerate(wanted)
            for entry in (self._walked(one.entry.path) if one.is_tree else (one.entry,))
        )
        records = self._records(entry for _, _, entry in copy)
        for _, group in groupby(zip(steps, records, strict=True), lambda step: step[0][0]):
            tree: _OpenDirectories | None = None
            digest = ""
            for (_, one, entry), digest in group:
                if one.is_tree:
                    tree = tree or _OpenDirectories(self._known)
                    tree.add(entry, digest)
            yield tree.finish() if tree is not None else digest


class _Wanted(NamedTuple):
    """An object whose digest is wanted: of a directory that of its header, or of the `whole` of it."""

    entry: Entry
    whole: bool

    @property
    def is_tree(self) -> bool:
        return self.whole and self.entry.is_dir


class _OpenDirectories:
    """The directories that the walk through a tree is in, each with the hash of what came so far."""

    def __init__(self, known: dict[str, str]) -> None:
        """Put the digest of each directory that the walk has left into `known`."""
        self._known = known
        self._open: list[tuple[str, hashlib._Hash]] = []

    def add(self, entry: Entry, digest: str) -> None:
        """Take the next entry and the digest of its record; the first is the directory that is walked through."""
        directory, _, name = entry.path.rpartition("/")
        while self._open and self._open[-1][0] != directory:
            self._leave()
        if entry.is_dir:
            self._open.append((entry.path, hashlib.sha256(b"\0" + digest.encode())))
        else:
            self._open[-1][1].update(b"\0" + name_key(name) + digest.encode())

    def finish(self) -> str:
        """Return the digest of the directory that was walked through."""
        while True:
            digest = self._leave()
            if not self._open:
                return digest

    def _leave(self) -> str:
        path, listed = self._open.pop()
        digest = self._known[path] = PREFIX + listed.hexdigest()
        if self._open:
            self._open[-1][1].update(b"\0" + name_key(path.rpartition("/")[2]) + digest.encode())
        return digest


def header(entry: Entry) -> bytes:
    """Return what of an object, besides its content, is in its record. Labels of a machine and ACLs are not."""
    major, minor = entry.dev if entry.kind in ("char", "block") else (0, 0)
    text = b"namemode%duid%dgid%dsize%dtypeflag%blinkname%bunamegnamedevmajor%ddevminor%d" % (
        0o777 if entry.kind == "symlink" else entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        _TYPES[entry.kind],
        os.fsencode(entry.link) if entry.kind == "symlink" else b"",
        major,
        minor,
    )
    if not entry.xattrs:
        return text
    named = sorted((os.fsencode(name), value) for name, value in entry.xattrs.items() if _is_counted(name))
    return text + b"".join(name + value for name, value in named)


def record(head: bytes, content: Content, size: int, path: str) -> str:
    """Return the digest of the record of a file of `size` bytes, from its header and content.

    Raises `Truncated` or `SizeMismatch`, naming `path`, if there are fewer or more bytes.
    """
    digest = hashlib.sha256(head)
    done = 0
    if isinstance(content, OpenFile):
        at_end = False
        while not at_end:
            wanted = min(_PIECE, size + 1 - done)
            data = os.read(content.fd, wanted)
            digest.update(data)
            done += len(data)
            at_end = len(data) < wanted or done > size
    else:
        for piece in (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content:
            if isinstance(piece, int):
                for start in range(0, piece, _PIECE):
                    digest.update(_ZEROS[: piece - start])
                done += piece
            else:
                digest.update(piece)
                done += memoryview(piece).nbytes
    check_size(done, size, path)
    return PREFIX + digest.hexdigest()


def raw(digest: str) -> bytes:
    """Return the bytes of a digest."""
    return bytes.fromhex(digest.removeprefix(PREFIX))


def bare_record(entry: Entry) -> str:
    """Return the digest of the record of an object without content, of a directory its header's."""
    return PREFIX + hashlib.sha256(header(entry)).hexdigest()


def _is_counted(name: str) -> bool:
    return name == "security.capability" or not name.startswith(("security.", "system."))


def _base(path: str) -> str:
    """Return the last name of a path, `.` of an empty one and `/` of the root, as Go's `path.Base` does."""
    if not path:
        return "."
    return posixpath.basename(path.rstrip("/")) or "/"
