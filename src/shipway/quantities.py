"""Sizes and durations as people write them: `10GB`, `512MiB`, `20%`; `48h`, `1h30m`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from shipway.errors import Invalid

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_POWERS = ("", "k", "m", "g", "t", "p")
_WHOLE = 100.0


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a share of a disk."""

    text: str
    amount: int = 0
    percent: float | None = None

    def on(self, path: Path) -> int:
        """Return the bytes it means on the disk that `path` is on."""
        if self.percent is None:
            return self.amount
        disk = os.statvfs(path)
        return int(disk.f_blocks * disk.f_frsize * self.percent / _WHOLE)


def size(text: str, *, where: str) -> Size:
    """Return the size that `text` says: `10GB` (powers of 1000), `10GiB` (of 1024), or `20%` of the disk.

    Raises `Invalid`, naming `where`.
    """
    share = _PERCENT.fullmatch(text.strip())
    if share is not None and float(share[1]) <= _WHOLE:
        return Size(text, percent=float(share[1]))
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"not a size: {text!r}", where=where, todo="write 10GB, 512MiB or 20%")
    number, unit, binary = found.groups()
    return Size(text, amount=int(float(number) * (1024 if binary else 1000) ** _POWERS.index(unit.lower())))


def duration(text: str, *, where: str) -> float:
    """Return the seconds that `text` says: `48h`, `1h30m`, `7d`, `0s`. Raises `Invalid`, naming `where`."""
    stripped = text.strip()
    parts = _DURATION.findall(stripped)
    if not parts or _DURATION.sub("", stripped).strip():
        raise Invalid(f"not a duration: {text!r}", where=where, todo="write 48h, 1h30m or 7d")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
