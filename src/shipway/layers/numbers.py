"""The numbers of archive headers: octal or base-256 fields, decimal records."""

from __future__ import annotations

from shipway.errors import Corrupt

MAX = 1 << 62
"""Largest number taken: no size, time or identity of a real file comes near."""
MAX_ID = (1 << 32) - 2
"""Largest user or group: the next one means "leave it as it is" to chown(2)."""
MAX_DEVICE = (1 << 32) - 1
_BASE_256 = 0x80
_SIGN = 0x40


def number(field: bytes, where: str) -> int:
    """Return a header field's number: octal digits, or base-256 as GNU tar writes what is too large for them.

    An empty field is 0. Raises `Corrupt` for anything else.
    """
    if field and field[0] & _BASE_256:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        value = value - (1 << (8 * len(field) - 1)) if field[0] & _SIGN else value
    else:
        digits = field.rstrip(b"\0 ").lstrip(b" ")
        digits = digits.split(b"\0", 1)[0]
        if not digits:
            return 0
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            raise Corrupt(f"not a number: {field!r}", where=where)
        value = int(digits, 8)
    if not -MAX <= value <= MAX:
        raise Corrupt(f"a number out of all bounds: {value}", where=where)
    return value


def decimal(text: bytes, where: str) -> int:
    """Return a record's number, which is not negative; `Corrupt` if it is none."""
    if not text.isdigit() or len(text) > 19 or int(text) > MAX:  # noqa: PLR2004  digits of MAX
        raise Corrupt(f"not a number: {text[:40]!r}", where=where)
    return int(text)


def check_owner(uid: int, gid: int, where: str) -> tuple[int, int]:
    """Return a user and group that can be those of a file; else `Corrupt`."""
    if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
        raise Corrupt(f"no owner can be {uid}:{gid}", where=where)
    return uid, gid


def check_device(major: int, minor: int, where: str) -> tuple[int, int]:
    """Return the two numbers of a device if they can be that; else `Corrupt`."""
    if not (0 <= major <= MAX_DEVICE and 0 <= minor <= MAX_DEVICE):
        raise Corrupt(f"no device can be {major}:{minor}", where=where)
    return major, minor
