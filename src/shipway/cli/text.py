"""How things look to people, and to programs that read lines."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice

from shipway.refs import FileStat
from shipway.values import FILE_TYPES

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_FIRST = 1000
"""Rows that say how wide a table is."""


def size(count: int) -> str:
    """Return a number of bytes for people: `812 B`, `1.4 MiB`."""
    value = float(count)
    for unit in _UNITS:
        if value < _STEP or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _STEP
    raise AssertionError


def plural(count: int, thing: str, things: str = "") -> str:
    """Return `1 file`, `2 files`."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def when(moment: datetime | None) -> str:
    """Return a time in UTC to the second, `-` if there is none."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


def iso(moment: datetime | None) -> str | None:
    """Return a time for JSON: RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def visible(text: str) -> str:
    r"""Return `text` on one line and harmless to a terminal: `\n`, `\x1b`, `\xff` for what cannot be shown."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004  the surrogates that stand for bytes in file names
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def table(
    rows: Iterable[Sequence[str]], header: Sequence[str], *, right: Iterable[str] = (), always_header: bool = False
) -> Iterator[str]:
    """Yield the lines of a table: columns two spaces apart, the header on a terminal only.

    The columns named in `right` are flush right; the last one is never padded. They are as wide as the first thousand
    rows need: rows are read as they come.
    """
    cells = ([visible(cell) for cell in row] for row in rows)
    first = list(islice(cells, _FIRST))
    if first and (always_header or sys.stdout.isatty()):
        first.insert(0, [name.upper() for name in header])
    flush_right = {list(header).index(name) for name in right}
    widths = [max((len(row[column]) for row in first), default=0) for column in range(len(header))]
    for row in chain(first, cells):
        padded = [
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def fields(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield `name  value` lines with the values below each other."""
    known = list(pairs)
    width = max(len(name) for name, _ in known)
    return (f"{name:<{width}}  {visible(value)}".rstrip() for name, value in known)


def described(document: Mapping[str, object]) -> Iterator[str]:
    """Return a line for each value of a document, for people."""
    return fields((name, _described(name, value)) for name, value in document.items())


def _described(name: str, value: object) -> str:
    if name == "size" and isinstance(value, int):
        return f"{size(value)} ({plain})" if (plain := f"{value} bytes") != size(value) else plain
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in sorted(value.items())) or "-"
    return "-" if value in (None, "") else str(value)


def long_line(entry: FileStat) -> str:
    """Return one line about an object of a tree, as `ls -l` has it: mode, owner, size, time, path."""
    mode = stat.filemode(FILE_TYPES[entry.kind] | entry.mode)
    what = f"{entry.dev[0]},{entry.dev[1]}" if entry.kind in ("char", "block") else str(entry.size)
    changed = datetime.fromtimestamp(entry.mtime_ns // 10**9, UTC)
    target = f" -> {visible(entry.link)}" if entry.link else ""
    return f"{mode} {entry.uid:>5} {entry.gid:>5} {what:>10} {when(changed)} {visible(entry.path)}{target}"
