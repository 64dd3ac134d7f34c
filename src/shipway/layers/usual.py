"""Headers of files and directories as almost all are, read in one step: short names, octal numbers, perhaps a time.

It is ustar or GNU, with no extended header, or with one that holds a time and nothing else. Whatever is different in
any way is left to `shipway.layers.tar`, which understands everything and takes twice as long; what is read here it
would read alike.
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from zlib import adler32

from shipway.layers.blocks import Blocks
from shipway.layers.headers import BLOCK, FORMATS_OWN
from shipway.layers.numbers import check_owner, number
from shipway.trees.entry import Entry, Kind

USTAR = b"ustar\x0000"
# name, mode+uid+gid, size, mtime, checksum, type, magic and version, prefix
_FIELDS = "100s 24s 12s 12s 8s c 100x 8s 64x 16x 155s 12x"
_ALONE = Struct(_FIELDS)
# of an extended header its size, checksum and records; then the header that it belongs to
_DESCRIBED = Struct(f"124x 12s 12x 8s 356x {BLOCK}s {_FIELDS}")
_TYPE = 156
_EXTENDED = ord("x")
_KINDS: dict[bytes, Kind] = {b"0": "reg", b"5": "dir"}
_SIZES = {b"%011o\0" % size: size for size in range(BLOCK)}
_TIME = re.compile(rb"(\d\d) mtime=(\d{1,10})\.(\d{9})\n")
_SECOND = 1_000_000_000
_ADLER = 65521


def usual_entry(blocks: Blocks, where: str) -> Entry | None:
    """Return the next entry of an archive and pass over its headers; None, passing over nothing, if it is unusual.

    Raises `Corrupt`, naming `where`, for an owner that nobody can be.
    """
    at, view = blocks.position, blocks.view
    if blocks.end - at < _DESCRIBED.size:
        return None
    time = None
    if view[at + _TYPE] == _EXTENDED:
        extended, its_sum, records, name, owner, size, mtime, own_sum, type_, magic, prefix = _DESCRIBED.unpack_from(
            view, at
        )
        time = _TIME.match(records)
        right = time is not None and time.end() == int(time[1]) == _SIZES.get(extended)
        if not right or not sum_is_right(view[at : at + BLOCK], its_sum):
            return None
        at += 2 * BLOCK
    else:
        name, owner, size, mtime, own_sum, type_, magic, prefix = _ALONE.unpack_from(view, at)
    kind = _KINDS.get(type_)
    path = _path(name, prefix if magic == USTAR else b"\0")
    length = _octal(size)
    seconds = _octal(mtime) if time is None else int(time[2])
    if kind is None or path is None or length is None or seconds is None:
        return None
    if kind == "dir":
        path, length = path.removesuffix("/"), 0
    if path.endswith("/") or not sum_is_right(view[at : at + BLOCK], own_sum):
        return None
    mode, uid, gid = read_owner(owner, where)
    blocks.position = at + BLOCK
    return Entry(
        path=path,
        kind=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size=length,
        mtime_ns=seconds * _SECOND + (0 if time is None else int(time[3])),
    )


def sum_is_right(block: memoryview, stored: bytes) -> bool:
    """Whether a header has the checksum that is `stored` in it, as six octal digits or fewer."""
    try:
        # The sum is taken modulo 65521, with the field itself as eight spaces.
        total = int(stored[:6], 8) + (adler32(stored, 0) & 0xFFFF) - 256
    except ValueError:
        return False
    return total % _ADLER == adler32(block, 0) & 0xFFFF


@lru_cache(maxsize=4096)
def read_owner(field: bytes, where: str) -> tuple[int, int, int]:
    """Return permission bits, user and group from their three fields side by side."""
    uid, gid = check_owner(number(field[8:16], where), number(field[16:], where), where)
    return number(field[:8], where) & 0o7777, uid, gid


def _path(name: bytes, prefix: bytes) -> str | None:
    """Return the path in the tree that a name plainly is; that of a directory may end with a slash."""
    raw = name.split(b"\0", 1)[0]
    if prefix[0]:
        raw = prefix.split(b"\0", 1)[0] + b"/" + raw
    raw = raw.removeprefix(b"./")
    # A component that begins with a dot may be a whiteout, or lead out of the tree.
    if not raw or raw[0] in b"./" or b"/." in raw or b"//" in raw or not raw.isascii():
        return None
    path = raw.decode()
    return None if path in FORMATS_OWN else path


def _octal(field: bytes) -> int | None:
    """Return the number that eleven octal digits are, and a NUL or a space."""
    digits = field[:11]
    if field[11] not in b"\0 " or not digits.isdigit():
        return None
    try:
        return int(digits, 8)
    except ValueError:
        return None
