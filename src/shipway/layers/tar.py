"""Reading tar: any archive, as entries and contents, in one pass.

Understood are V7, ustar and PAX (POSIX.1-2017, pax), GNU long names, base-256
numbers, and the four forms of sparse files. What is allocated for an entry is bounded
before it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from struct import Struct

from shipway.errors import Corrupt, Truncated, UnsafeEntry
from shipway.layers import pax, sparse
from shipway.layers.blocks import Blocks, padding
from shipway.layers.compressing import PIECE, Compressing
from shipway.layers.headers import BLOCK, END_OF_ARCHIVE, TABLE_NAME
from shipway.layers.numbers import check_device, check_owner, decimal, number
from shipway.layers.usual import USTAR, read_owner, sum_is_right, usual_entry
from shipway.layers.whiteouts import may_be_whiteout, whiteout
from shipway.trees.entry import MAX_PATH, Content, Entry, Kind, clean_archive_path

MAX_NAME = MAX_PATH + 16
"""Longest name or link: a path, and what marks a removal."""
MAX_DESCRIBED = 16
"""Most extended headers of one entry."""
MAX_OWN = 16 << 10
"""Most records of one entry: Linux lists at most 64 KiB of attributes' names."""
MAX_COMMON = 64
"""Most records that apply to all entries, since each has to be gone through for each."""
WHOLE = 1 << 20
"""Content of up to this many bytes is handed over in one piece."""

# name, mode+uid+gid, size, mtime, checksum, type, link name, magic and version, device, prefix
_HEADER = Struct("100s 24s 12s 12s 8s c 100s 8s 64x 16s 155s 12x")
_KINDS: dict[bytes, Kind] = {
    b"0": "reg",
    b"\0": "reg",
    b"7": "reg",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
    b"S": "reg",
}
_COMMON = frozenset({b"mtime", b"uid", b"gid", b"path", b"linkpath", b"size"})
_LINKS = ("hardlink", "symlink")
_DEVICES = ("char", "block")
_SIGN = 0x80
_SECOND = 1_000_000_000
Records = dict[bytes, bytes]


class TarReader:
    """Iterates over the entries of an archive; `complete` tells whether its end marker was seen.

    While an entry with content is handed over, `stored` says where in the archive that is.

    Raises `Corrupt`, `Truncated` or `UnsafeEntry`, which name `where` and the
    entry. Whatever follows the end marker is left unread in `blocks`.
    """

    def __init__(self, blocks: Blocks, where: str, *, keep: int = 0) -> None:
        """Read from `blocks`; `where` names the archive in errors.

        eStargz's table of contents, which is no entry, is kept in `table` if it has at most `keep` bytes. It may
        follow the end marker, as BuildKit has it.
        """
        self.table: Compressing | None = None
        self._keep = keep
        self._passed = ""
        """The path of what was passed over last."""
        self._blocks = blocks
        self._where = where
        self._common: Records = {}
        self._own: Records = {}
        self._described = 0
        self.complete = False
        self._place = 0
        self._sparse: sparse.Sparse | None = None

    @property
    def place(self) -> int:
        """Where in the archive the content of the entry that was handed over last begins, or would."""
        return self._place

    @property
    def is_sparse(self) -> bool:
        """Whether the file that was handed over last is stored without its holes."""
        return self._sparse is not None

    def stored(self, size: int) -> list[tuple[int, int, int]]:
        """Return which bytes of the file of `size` bytes that was handed over last are where: start, place, length."""
        if self._sparse is None:
            return [(0, self._place, size)]
        extents: list[tuple[int, int, int]] = []
        place = self._place
        for start, length in self._sparse.extents:
            if length:
                extents.append((start, place, length))
            place += length
        return extents

    def __iter__(self) -> Iterator[tuple[Entry, Content]]:
        blocks, kinds = self._blocks, _KINDS
        entry: Entry | None
        holes: sparse.Sparse | None
        while blocks.position < blocks.end or blocks.refill():
            if not self._described and not self._common and (entry := usual_entry(blocks, self._where)):
                stored, holes = entry.size, None
            else:
                fields = self._header()
                if fields is None:
                    break
                kind = kinds.get(fields[5])
                if kind is None:
                    self._read_special(fields)
                    continue
                entry, stored, holes = self._entry(fields, kind)
                self._own = {}
                self._described = 0
            self._place, self._sparse = blocks.base + blocks.position, holes
            if not stored and not holes:
                if entry:
                    yield entry, b""
                continue
            blocks.left = stored
            if entry and entry.kind == "reg":
                yield entry, self._content(stored, holes, entry.path)
            elif not entry and self._passed == TABLE_NAME:
                blocks.left -= self._take_table(stored)
            blocks.skip(blocks.left + padding(stored), self._where)
        self._close()

    def _close(self) -> None:
        if self._own:
            raise Truncated("ended after an extended header", where=self._where)
        if self._keep:
            self._look_behind()

    def _take_table(self, size: int) -> int:
        """Keep a table of contents of `size` bytes if it is wanted; return how many of them were read."""
        if not 0 < size <= self._keep:
            return 0
        self.table = Compressing(1)
        for done in range(0, size, PIECE):
            self.table.add(bytes(self._blocks.take(min(PIECE, size - done), self._where)))
        return size

    def _look_behind(self) -> None:
        """Keep the table of contents that comes first after the end marker, if one does."""
        blocks = self._blocks
        while blocks.end - blocks.position >= BLOCK or (blocks.refill() and blocks.end >= BLOCK):
            block = blocks.take(BLOCK, self._where)
            if block != END_OF_ARCHIVE[:BLOCK]:
                fields = _HEADER.unpack(block)
                if sum_is_right(block, fields[4]) and _text(fields[0]) == TABLE_NAME:
                    self._take_table(number(fields[2], self._where))
                return

    def _content(self, stored: int, holes: sparse.Sparse | None, path: str) -> Content:
        blocks, where = self._blocks, self._named(path)
        if holes:
            return holes.content(blocks, where)
        if stored > WHOLE:
            return blocks.content(stored, where)
        blocks.left = 0
        return blocks.take(stored, where)

    def _named(self, name: str) -> str:
        return f"{self._where}: {name[:200]!r}" if self._where else repr(name[:200])

    def _header(self) -> tuple[bytes, ...] | None:
        """Return the fields of the next header block; None at the end marker."""
        blocks = self._blocks
        at = blocks.position
        if blocks.end - at < BLOCK:
            raise Truncated("ended inside a header", where=self._where)
        blocks.position = at + BLOCK
        block = blocks.view[at : at + BLOCK]
        fields = _HEADER.unpack(block)
        if sum_is_right(block, fields[4]):
            return fields
        if not any(block):
            self._end()
            return None
        if not _sum_was_right(bytes(block), fields[4], self._where):
            raise Corrupt("a header's checksum is wrong", where=self._where)
        return fields

    def _end(self) -> None:
        blocks = self._blocks
        self.complete = True
        if blocks.position < blocks.end or blocks.refill():
            rest = bytes(blocks.view[blocks.position : min(blocks.position + BLOCK, blocks.end)])
            if any(rest):
                raise Corrupt("a block of zeros between entries", where=self._where)

    def _read_special(self, fields: tuple[bytes, ...]) -> None:
        """Take in a header that describes the next entry, or all that follow."""
        kind, where = fields[5], self._where
        size = number(fields[2], where)
        if kind not in b"xXgLKV":
            raise Corrupt(f"an entry of the unknown type {kind!r}", where=self._named(_text(fields[0])))
        self._described += 1
        if not 0 <= size <= pax.MAX_RECORDS or self._described > MAX_DESCRIBED:
            raise Corrupt(f"an extended header of {size} bytes, the {self._described}. in a row", where=where)
        data = bytes(self._blocks.take(size, where))
        self._blocks.skip(padding(size), where)
        if kind == b"L":
            self._own = {**self._own, b"path": data.rstrip(b"\0")}
        elif kind == b"K":
            self._own = {**self._own, b"linkpath": data.rstrip(b"\0")}
        elif kind == b"g":
            self._common = self._bounded({**self._common, **_used(pax.records(data, where))}, MAX_COMMON)
            self._described = 0
        elif kind != b"V":
            self._own = self._bounded({**self._own, **sparse.merged(pax.records(data, where))}, MAX_OWN)

    def _bounded(self, records: Records, most: int) -> Records:
        size = sum(len(key) + len(value) for key, value in records.items())
        if size > pax.MAX_RECORDS or len(records) > most:
            raise Corrupt(f"extended headers of {len(records)} records, {size} bytes", where=self._where)
        return records

    def _entry(self, fields: tuple[bytes, ...], kind: Kind) -> tuple[Entry | None, int, sparse.Sparse | None]:
        """Return the entry (None for one to pass over), how many bytes are stored for it, and its holes."""
        records = {**self._common, **self._own} if self._common else self._own
        name = _name(fields, records)
        where = self._named(name)
        stored = size = 0
        holes = None
        if kind == "reg":
            stored = size = decimal(records[b"size"], where) if b"size" in records else number(fields[2], where)
            if fields[5] == b"S" or not sparse.MARKS.isdisjoint(records):
                holes = self._holes(fields, records, stored, where)
                stored, size = holes.stored, holes.size
            elif name.endswith("/"):
                kind, size = "dir", 0
        path = clean_archive_path(name, where)
        if stored < 0 or size < 0 or len(path) > MAX_NAME:
            raise Corrupt(f"a file of {stored} bytes under a name of {len(path)}", where=where)
        if may_be_whiteout(path):
            self._passed = path
            return whiteout(path, where), stored, None
        if not path and kind != "dir":
            raise UnsafeEntry(f"a {kind} in the place of the root", where=where)
        mode, uid, gid = read_owner(fields[1], self._where)
        if b"uid" in records or b"gid" in records:
            uid = decimal(records[b"uid"], where) if b"uid" in records else uid
            gid = decimal(records[b"gid"], where) if b"gid" in records else gid
            check_owner(uid, gid, where)
        seconds = records.get(b"mtime")
        entry = Entry(
            path=path,
            kind=kind,
            mode=mode,
            uid=uid,
            gid=gid,
            size=size,
            mtime_ns=number(fields[3], where) * _SECOND if seconds is None else pax.time_ns(seconds, where),
            link=_link(fields, records, kind, where) if kind in _LINKS else "",
            dev=_device(fields[8], where) if kind in _DEVICES else (0, 0),
            xattrs=_xattrs(records) if records else {},
        )
        return entry, stored, holes

    def _holes(self, fields: tuple[bytes, ...], records: Records, stored: int, where: str) -> sparse.Sparse:
        blocks = self._blocks
        if fields[5] == b"S":
            block = bytes(blocks.view[blocks.position - BLOCK : blocks.position])
            return sparse.from_header(block, blocks, stored, where)
        return sparse.from_records(records, blocks, stored, where)


def _used(records: Iterable[tuple[bytes, bytes]]) -> Records:
    """Return those records of a global header that mean something for every entry."""
    return {key: value for key, value in records if key in _COMMON or key.startswith(pax.XATTR)}


def _text(field: bytes) -> str:
    """Return a field's text, which ends at its first NUL byte."""
    return os.fsdecode(field.split(b"\0", 1)[0])


def _name(fields: tuple[bytes, ...], records: Records) -> str:
    """Return the entry's full name."""
    raw = records.get(sparse.NAME) or records.get(b"path")
    if raw is None:
        raw = fields[0].split(b"\0", 1)[0]
        if fields[7] == USTAR and fields[9][0]:
            raw = fields[9].split(b"\0", 1)[0] + b"/" + raw
    return raw.decode() if raw.isascii() else os.fsdecode(raw)


def _link(fields: tuple[bytes, ...], records: Records, kind: Kind, where: str) -> str:
    """Return a symlink's target as written, or a hard link's path in the tree."""
    raw = records.get(b"linkpath")
    link = _text(fields[6]) if raw is None else os.fsdecode(raw)
    if not link or "\0" in link or len(link) > MAX_NAME:
        raise Corrupt(f"a link to {link[:200]!r}", where=where)
    if kind == "symlink":
        return link
    link = clean_archive_path(link, where)
    if not link:
        raise UnsafeEntry("a hard link to the root", where=where)
    return link


def _xattrs(records: Records) -> dict[str, bytes]:
    skip = len(pax.XATTR)
    return {pax.xattr_name(key[skip:]): value for key, value in records.items() if key.startswith(pax.XATTR)}


def _device(field: bytes, where: str) -> tuple[int, int]:
    return check_device(number(field[:8], where), number(field[8:], where), where)


def is_archive(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes, 512 if it has as many, can be a tar."""
    if len(beginning) < BLOCK:
        return False
    block = beginning[:BLOCK]
    try:
        return not any(block) or _sum_was_right(block, _HEADER.unpack(block)[4], "")
    except Corrupt:
        return False


def _sum_was_right(block: bytes, stored: bytes, where: str) -> bool:
    """Whether a header's checksum is right, or right by the signed sums of ancient programs."""
    blanked = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(blanked)
    signed = unsigned - 256 * sum(1 for byte in blanked if byte >= _SIGN)
    return number(stored, where) in (unsigned, signed)
