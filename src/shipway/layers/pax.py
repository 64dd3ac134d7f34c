"""PAX records: the `length key=value` lines of extended tar headers (POSIX.1-2017, pax)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from shipway.errors import Corrupt

XATTR = b"SCHILY.xattr."
MAX_RECORDS = 1 << 20
"""Largest extended header, in bytes; more would only serve to fill our memory."""


def record(key: bytes, value: bytes) -> bytes:
    """Return one record; its length field counts itself."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %b=%b\n" % (size, key, value)


def records(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and value of each record in `data`; `Corrupt` if it is not made of records."""
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = data[position:space]
        if space < 0 or not length.isdigit():
            raise Corrupt("an extended header is not made of records", where=where)
        end = position + int(length)
        equals = data.find(b"=", space, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise Corrupt("an extended header is not made of records", where=where)
        yield data[space + 1 : equals], data[equals + 1 : end - 1]
        position = end


def xattr_key(name: str) -> bytes:
    """Return the record key of an extended attribute, with `=` and `%` escaped as GNU tar does."""
    raw = os.fsencode(name)
    if b"=" in raw or b"%" in raw:
        raw = raw.replace(b"%", b"%25").replace(b"=", b"%3D")
    return XATTR + raw


def xattr_name(key: bytes) -> str:
    """Return the extended attribute that a record key, without `XATTR`, stands for."""
    if b"%" in key:
        key = key.replace(b"%3D", b"=").replace(b"%25", b"%")
    return os.fsdecode(key)


def time_ns(value: bytes, where: str) -> int:
    """Return a decimal number of seconds as nanoseconds; further digits are dropped towards the past."""
    sign, digits = (-1, value[1:]) if value.startswith(b"-") else (1, value)
    seconds, _, fraction = digits.partition(b".")
    if not seconds.isdigit() or not (fraction.isdigit() or not fraction) or len(seconds) > 20:  # noqa: PLR2004  digits of 2^64
        raise Corrupt(f"not a time: {value[:40]!r}", where=where)
    return sign * (int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))


def format_time(ns: int) -> bytes:
    """Return nanoseconds as the decimal number of seconds that `time_ns` reads."""
    seconds, fraction = divmod(abs(ns), 1_000_000_000)
    return b"%b%d.%09d" % (b"-" if ns < 0 else b"", seconds, fraction)
