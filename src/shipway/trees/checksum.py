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
from collections.abc import Callable, Iterable, Sequence

from shipway.errors import NotFound
from shipway.trees.content import check_size
from shipway.trees.entry import Content, Entry, OpenFile, join, name_key, path_key
from shipway.trees.included import Included, clean, included
from shipway.trees.select import Listing, resolve

Records = Callable[[Sequence[Entry]], Iterable[str]]
"""Returns the digests of the records of entries of one tree, in order; for a directory, of its header."""

_TYPES = {"reg": b"0", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


class Checksums:
    """The content checksums of one tree, which never changes. What was once computed is kept. Thread-safe."""

    def __init__(self, tree: Listing, records: Records) -> None:
        """Look at `tree`, whose objects have the `records`; each is asked for at most once."""
        self._tree = tree
        self._records = records
        self._known: dict[str, str] = {}
        self._headers: dict[str, str] = {}
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
                return self._of(self._found(path, follow=follow))
            found = included(self._tree, path, wildcard=wildcard, include=include, exclude=exclude)
            digests = self._of_included(found.items, follow=follow)
        if len(digests) == 1 and _base(path) == _base(found.items[0].path):
            return digests[0]
        listed = hashlib.sha256()
        for item, digest in zip(found.items, digests, strict=True):
            name = item.path.removeprefix(found.prefix)
            listed.update(path_key("/" + name.lstrip("/") if name else "/") + digest.encode())
        return "sha256:" + listed.hexdigest()

    def _found(self, path: str, *, follow: bool) -> Entry:
        entry = self._tree.get(resolve(self._tree, clean(path), follow_last=follow))
        if entry is None:
            raise NotFound("is not in the tree", where=path)
        return entry

    def _of_included(self, items: Sequence[Included], *, follow: bool) -> list[str]:
        """Return the digest of each object: what a symlink at the top leads to, of a directory its header."""
        targets = {
            item.path: self._found(item.path, follow=True)
            for item in items
            if follow and item.is_top and item.entry.kind == "symlink"
        }
        self._compute([item.entry for item in items], list(targets.values()))
        return [
            self._known[targets[item.path].path]
            if item.path in targets
            else (self._headers if item.entry.is_dir else self._known)[item.entry.path]
            for item in items
        ]

    def _of(self, entry: Entry) -> str:
        self._compute((), (entry,))
        return self._known[entry.path]

    def _compute(self, alone: Iterable[Entry], whole: Iterable[Entry]) -> None:
        """Make known the records of what stands `alone`, and the digests of `whole` with all that is below."""
        wanted = {entry.path: entry for entry in alone}
        directories: list[Entry] = []
        todo = [entry for entry in whole if entry.path not in self._known]
        seen: set[str] = set()
        while todo:
            entry = todo.pop()
            if entry.path in self._known or entry.path in seen:
                continue
            seen.add(entry.path)
            wanted[entry.path] = entry
            if entry.is_dir:
                directories.append(entry)
                below = (self._tree.get(join(entry.path, name)) for name in self._tree.names(entry.path))
                todo += (one for one in below if one is not None)
        lacking = [
            entry for entry in wanted.values() if entry.path not in (self._headers if entry.is_dir else self._known)
        ]
        for entry, digest in zip(lacking, self._records(lacking), strict=True):
            (self._headers if entry.is_dir else self._known)[entry.path] = digest
        for directory in reversed(directories):  # what is below comes later in the list
            self._known[directory.path] = self._directory(directory)

    def _directory(self, directory: Entry) -> str:
        pieces = [b"\0", self._headers[directory.path].encode()]
        for name in self._tree.names(directory.path):
            pieces += (b"\0", name_key(name), self._known[join(directory.path, name)].encode())
        return "sha256:" + hashlib.sha256(b"".join(pieces)).hexdigest()


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
    return "sha256:" + digest.hexdigest()


def bare_record(entry: Entry) -> str:
    """Return the digest of the record of an object without content, of a directory its header's."""
    return "sha256:" + hashlib.sha256(header(entry)).hexdigest()


def _is_counted(name: str) -> bool:
    return name == "security.capability" or not name.startswith(("security.", "system."))


def _base(path: str) -> str:
    """Return the last name of a path, `.` of an empty one and `/` of the root, as Go's `path.Base` does."""
    if not path:
        return "."
    return posixpath.basename(path.rstrip("/")) or "/"
