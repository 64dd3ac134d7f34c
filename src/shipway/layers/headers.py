"""Writing tar: the header blocks of an entry.

Plain ustar (POSIX.1-1988) where it can say it, PAX records in front only for
what it cannot: fractions of a second, long names, large numbers, extended
attributes. Nothing depends on anything but the entry, so the same tree
always gives the same bytes. Names are the raw bytes they have on disk, in PAX
records too: GNU tar, Go and Python all read them back so.
"""

from __future__ import annotations

import os
import zlib
from functools import lru_cache

from shipway.errors import Invalid
from shipway.layers.pax import MAX_RECORDS, format_time, record, xattr_key
from shipway.trees.entry import MAX_PATH, Entry, Kind

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
WHITEOUT = ".wh."
"""Prefix of the name of a file that stands for a removal (image-spec, layer.md, Whiteouts)."""
WHITEOUT_META = ".wh..wh."
"""Prefix of names that mean something else, or nothing."""
OPAQUE = ".wh..wh..opq"
TABLE_NAME = "stargz.index.json"
LANDMARK = ".no.prefetch.landmark"
FORMATS_OWN = frozenset({TABLE_NAME, LANDMARK, ".prefetch.landmark"})
"""Files that eStargz puts into the root directory of an archive: they are of the format, never of the tree."""

_NAME = 100
_PREFIX = 155
_TYPE: dict[Kind, bytes] = {
    "reg": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
    "whiteout": b"0",
    "opaque": b"0",
}
_SMALL = 8**7
_LARGE = 8**11
_SECOND = 1_000_000_000
# name, mode+uid+gid, size, mtime, checksum as spaces, type, link name, magic and version, users' names, device, prefix
_HEADER = b"%b%b%011o\0%011o\0        %b%bustar\x0000" + bytes(64) + b"%07o\0%07o\0%b" + bytes(12)


def archive_name(entry: Entry) -> str:
    """Return the name that `entry` has in an archive; `Invalid` if that is taken by a format or too long."""
    path, kind = entry.path, entry.kind
    if len(path) > MAX_PATH:
        raise Invalid(f"a path of more than {MAX_PATH} characters", where=repr(path[:200]))
    if path in FORMATS_OWN:
        raise Invalid(
            "a layer cannot hold this name, it would mean a table of contents",
            where=repr(path),
            todo="rename it or leave it out",
        )
    if kind == "reg" and ".wh." not in path:
        return path
    if kind == "opaque":
        return f"{path}/{OPAQUE}" if path else OPAQUE
    parent, _, name = path.rpartition("/")
    if kind == "whiteout":
        return f"{parent}/{WHITEOUT}{name}" if parent else WHITEOUT + name
    if name.startswith(WHITEOUT):
        raise Invalid(
            "a layer cannot hold this name, it would mean a removal",
            where=repr(path),
            todo="rename it or leave it out",
        )
    if kind == "dir":
        return path + "/" if path else "./"
    return path


def header(entry: Entry, name: str) -> bytes:
    """Return the header blocks of `entry` under `name`, with its PAX header in front if it needs one."""
    raw = name.encode() if name.isascii() else os.fsencode(name)
    link = os.fsencode(entry.link) if entry.link else b""
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    size, uid, gid = entry.size, entry.uid, entry.gid
    extra = b""
    if fraction or not 0 <= seconds < _LARGE:
        extra = record(b"mtime", format_time(entry.mtime_ns))
        seconds = seconds if 0 <= seconds < _LARGE else 0
    prefix = b""
    if len(raw) > _NAME:
        prefix, short = _split(raw)
        if not short:
            extra += record(b"path", raw)
            short = raw[:_NAME]
        raw = short
    if len(link) > _NAME:
        extra += record(b"linkpath", link)
        link = link[:_NAME]
    if size >= _LARGE:
        extra += record(b"size", b"%d" % size)
        size = 0
    if uid >= _SMALL:
        extra += record(b"uid", b"%d" % uid)
        uid = 0
    if gid >= _SMALL:
        extra += record(b"gid", b"%d" % gid)
        gid = 0
    if entry.xattrs:
        extra += b"".join(sorted(record(xattr_key(key), value) for key, value in entry.xattrs.items()))
    major, minor = entry.dev
    if major >= _SMALL or minor >= _SMALL:
        raise Invalid(f"no archive can hold the device number {major}:{minor}", where=repr(entry.path))
    block = _HEADER % (
        raw.ljust(_NAME, b"\0"),
        _owner(entry.mode, uid, gid),
        size,
        seconds,
        _TYPE[entry.kind],
        link.ljust(_NAME, b"\0"),
        major,
        minor,
        prefix.ljust(_PREFIX, b"\0"),
    )
    block = _sealed(block)
    return _extended(extra, entry.path) + block if extra else block


def checksum(block: bytes | memoryview) -> int:
    """Return the sum of a header block's bytes.

    Adler-32 started at 0 holds that sum, modulo 65521, in its low half, and is
    nine times faster than `sum`; half a block cannot reach 65521.
    """
    half = BLOCK // 2
    return (zlib.adler32(block[:half], 0) & 0xFFFF) + (zlib.adler32(block[half:], 0) & 0xFFFF)


def _sealed(block: bytes) -> bytes:
    return b"%b%06o\0 %b" % (block[:148], checksum(block), block[156:])


@lru_cache(maxsize=4096)
def _owner(mode: int, uid: int, gid: int) -> bytes:
    return b"%07o\0%07o\0%07o\0" % (mode, uid, gid)


@lru_cache(maxsize=1024)
def _pax_header(size: int) -> bytes:
    """Return the header block of an extended header with `size` bytes of records."""
    name = b"././@PaxHeader".ljust(_NAME, b"\0")
    return _sealed(_HEADER % (name, _owner(0o644, 0, 0), size, 0, b"x", bytes(_NAME), 0, 0, bytes(_PREFIX)))


def _extended(extra: bytes, path: str) -> bytes:
    if len(extra) > MAX_RECORDS:
        raise Invalid(f"its attributes take {len(extra)} bytes, more than a layer may hold", where=repr(path))
    return _pax_header(len(extra)) + extra + bytes(-len(extra) % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return ustar's prefix and name of a long name; an empty name if it cannot be split so."""
    slash = name.rfind(b"/", 0, min(_PREFIX + 1, len(name) - 1))
    if slash <= 0 or len(name) - slash - 1 > _NAME:
        return b"", b""
    return name[:slash], name[slash + 1 :]
