"""A layer's table of contents against its archive: who reads one must not see another tree than who reads the other.

The archive is known first, the table comes behind it. So all that the entries of the archive say, with the sha256 of
their contents, is hashed while it is unpacked; and a checksum of each kept, to name the first that differs.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

import msgspec

from shipway.errors import Corrupt
from shipway.layers.chunked import FIRST_SECOND, LAST_SECOND
from shipway.layers.passing import Extent
from shipway.trees.entry import Buffer, Entry
from shipway.trees.spool import Spool

_SECOND = 1_000_000_000
_COMMON = 1 << 62
"""Nanoseconds that need no second look: times between 1970 and 2116."""
_FIRST, _LAST = FIRST_SECOND * _SECOND, LAST_SECOND * _SECOND + _SECOND - 1
_REPLACED = re.compile("\ufffd+")
_encode = msgspec.msgpack.Encoder().encode


class Witness:
    """Takes the entries of an archive that passes by; implements `Watcher`."""

    extents = False
    room = sys.maxsize
    listening = True

    def __init__(self, *, times: bool = True) -> None:
        """Hear of nothing yet; without `times` the table cannot say these exactly, and they do not count."""
        self._times = times
        self._said = hashlib.sha256()
        self._marks = array("I")

    def add(self, entry: Entry, digest: str, extents: Sequence[Extent] = ()) -> None:  # noqa: ARG002  of the contract
        """Take the next entry of the archive; see `Watcher`."""
        said = self._statement(entry, digest)
        self._said.update(said)
        self._marks.append(crc32(said))

    @property
    def said(self) -> bytes:
        """What stands for all that was heard."""
        return self._said.digest()

    def check(self, table: Iterable[Entry], where: str) -> None:
        """Raise `Corrupt`, naming the first entry that is not in both alike, unless `table` is what was noted."""
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


class Told:
    """A table whose entries are gone through while its archive is made of them, and need not be again to compare."""

    def __init__(self, table: Iterable[Entry], *, times: bool) -> None:
        """Tell what `table` says; for `times` see `Witness`."""
        self._table = table
        self._times = times
        self._said = b""

    def __iter__(self) -> Iterator[Entry]:
        witness = Witness(times=self._times)
        for entry in self._table:
            witness.add(entry, entry.digest)
            yield entry
        self._said = witness.said

    def check(self, archive: Witness, where: str) -> None:
        """Raise what `Witness.check` does."""
        if self._said != archive.said:
            archive.check(self._table, where)


class Window:
    """The bytes of a blob at one place, kept while the blob passes by."""

    def __init__(self, start: int, length: int) -> None:
        """Keep `length` bytes from `start` on."""
        self.data = Spool()
        self._start, self._end = start, start + length

    def pass_by(self, position: int, piece: Buffer) -> None:
        """Take a piece of the blob, which is at `position`."""
        if position < self._end and position + len(piece) > self._start:
            self.data.add(piece[max(self._start - position, 0) : self._end - position])


def _readable(name: str) -> str:
    """Return a name as other writers have it in JSON, who replace what is not UTF-8; one mark for all that adjoins."""
    return _REPLACED.sub("\ufffd", os.fsencode(name).decode(errors="replace"))


def _sayable(ns: int) -> int:
    """Return a time as a table of contents can say it: RFC 3339 has four digits for the year."""
    ns = min(max(ns, _FIRST), _LAST)
    return 0 if ns == _FIRST else ns
