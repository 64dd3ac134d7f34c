"""A layer's table of contents against its archive: who reads one must not see another tree than who reads the other.

The archive is known first, the table comes behind it. So all that the entries of the archive say, with the sha256 of
their contents, is hashed while it is unpacked; and a checksum of each kept, to name the first that differs.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from shipway.errors import Corrupt
from shipway.layers.chunked import FIRST_SECOND, LAST_SECOND
from shipway.trees.copying import Adding
from shipway.trees.entry import Buffer, Content, Entry, OpenFile

_SECOND = 1_000_000_000
_COMMON = 1 << 62
"""Nanoseconds that need no second look: times between 1970 and 2116."""
_FIRST, _LAST = FIRST_SECOND * _SECOND, LAST_SECOND * _SECOND + _SECOND - 1
_ZEROS = bytes(1 << 20)
_SMALL = 64 << 10
"""Contents of fewer bytes are hashed where they pass by: handing over Python's lock takes longer."""
_REPLACED = re.compile("\ufffd+")
_encode = msgspec.msgpack.Encoder().encode
Noted = tuple[Entry | None, Buffer | int | str]
"""An entry with its content, or the first part of it, or its digest; or, without an entry, a further part."""


class Witness:
    """A sink in front of another, that notes what passes through to it.

    What was noted is hashed by `work`, for which `noted` says what there is to do: in another thread, and before
    the buffers that it is in are filled again.
    """

    def __init__(self, sink: Adding, *, times: bool = True) -> None:
        """Pass everything on to `sink`; without `times` the table cannot say these exactly, and they do not count."""
        self._sink = sink
        self._times = times
        self._noted: list[Noted] = []
        self._said = hashlib.sha256()
        self._marks = array("I")
        self._entry: Entry | None = None
        self._hash = hashlib.sha256()

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Take one entry; see `TreeSink.add`."""
        assert not isinstance(content, OpenFile)
        if isinstance(content, (bytes, bytearray, memoryview)):
            small = entry.size and len(content) < _SMALL
            self._noted.append((entry, hashlib.sha256(content).hexdigest() if small else content))
            self._sink.add(entry, content)
            return
        self._noted.append((entry, b""))
        pieces = self._passing(content)
        self._sink.add(entry, pieces)
        for _ in pieces:  # whatever the sink left
            pass

    def _passing(self, pieces: Iterator[Buffer | int]) -> Iterator[Buffer | int]:
        for piece in pieces:
            self._noted.append((None, piece))
            yield piece

    def noted(self) -> list[Noted]:
        """Return what has been noted since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def work(self, noted: list[Noted]) -> None:
        """Hash what was noted; the parts in their order, one call at a time."""
        for entry, piece in noted:
            if entry is not None:
                self._close()
            if isinstance(piece, str):
                assert entry is not None
                self._say(entry, piece)
            elif entry is not None:
                self._entry, self._hash = entry, hashlib.sha256(piece if not isinstance(piece, int) else b"")
            elif isinstance(piece, int):
                for done in range(0, piece, len(_ZEROS)):
                    self._hash.update(_ZEROS[: piece - done])
            else:
                self._hash.update(piece)

    def _close(self) -> None:
        """End the entry whose content passed by in parts."""
        if self._entry is not None:
            self._say(self._entry, self._hash.hexdigest() if self._entry.size else "")
            self._entry = None

    def _say(self, entry: Entry, digest: str) -> None:
        said = self._statement(entry, digest and f"sha256:{digest}")
        self._said.update(said)
        self._marks.append(crc32(said))

    def check(self, table: Iterable[Entry], where: str) -> None:
        """Raise `Corrupt`, naming the first entry that is not in both alike, unless `table` is what was noted."""
        self._close()
        whole = hashlib.sha256()
        for index, entry in enumerate(table):
            said = self._statement(entry, entry.digest)
            whole.update(said)
            if index >= len(self._marks) or self._marks[index] != crc32(said):
                what = f"its table of contents says of {entry.path[:200]!r} what its archive does not"
                raise Corrupt(what, where=where)
        if whole.digest() != self._said.digest():
            raise Corrupt("its archive says more than its table of contents, or other things", where=where)

    def _statement(self, entry: Entry, digest: str) -> bytes:
        """Return all that an entry says, as bytes that no other entry has."""
        path, link, ns = entry.path, entry.link, entry.mtime_ns
        if not path.isascii() or (link and not link.isascii()):
            path, link = _readable(path), _readable(link)
        if not 0 < ns < _COMMON:
            ns = _sayable(ns)
        xattrs = entry.xattrs
        said = (
            path,
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            divmod(ns, _SECOND) if self._times else 0,
            link,
            entry.dev,
            sorted((os.fsencode(name), value) for name, value in xattrs.items()) if xattrs else None,
            digest,
        )
        return _encode(said)


class Window:
    """The bytes of a blob at one place, kept while the blob passes by."""

    def __init__(self, start: int, length: int) -> None:
        """Keep `length` bytes from `start` on."""
        self.data = bytearray()
        self._start, self._end = start, start + length

    def pass_by(self, position: int, piece: Buffer) -> None:
        """Take a piece of the blob, which is at `position`."""
        if position < self._end and position + len(piece) > self._start:
            self.data += piece[max(self._start - position, 0) : self._end - position]


def _readable(name: str) -> str:
    """Return a name as other writers have it in JSON, who replace what is not UTF-8; one mark for all that adjoins."""
    return _REPLACED.sub("\ufffd", os.fsencode(name).decode(errors="replace"))


def _sayable(ns: int) -> int:
    """Return a time as a table of contents can say it: RFC 3339 has four digits for the year."""
    ns = min(max(ns, _FIRST), _LAST)
    return 0 if ns == _FIRST else ns
