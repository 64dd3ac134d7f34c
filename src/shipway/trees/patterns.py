"""Wildcards for one component of a path.

`*` is any run of characters, `?` any one, `[a-z]` one of a set and `[!a-z]` or `[^a-z]` one that is not in
it; a backslash takes the meaning from what follows. Names that are not UTF-8 match too:
each byte that is not counts as a character.
"""

from __future__ import annotations

import re

from shipway.errors import Invalid

_MAGIC = re.compile(r"[*?\[\\]")


def has_magic(pattern: str) -> bool:
    """Whether `pattern` has any character with a special meaning."""
    return _MAGIC.search(pattern) is not None


def fixed_prefix(pattern: str) -> str:
    """Return the leading components of a path pattern that hold no wildcard, as a path.

    Whatever matches is at or below it, unless symlinks lead elsewhere.
    """
    fixed: list[str] = []
    for part in pattern.split("/"):
        if has_magic(part):
            break
        fixed.append(part)
    return "/".join(fixed)


def compile_component(pattern: str) -> re.Pattern[str]:
    """Return a regular expression whose `fullmatch` tells whether a name fits; `Invalid` for a malformed pattern."""
    out: list[str] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            if out[-1:] != [".*"]:
                out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[":
            text, place = _char_set(pattern, place)
            out.append(text)
        elif char == "\\":
            if place == len(pattern):
                raise Invalid("ends in a backslash", where=f"pattern {pattern!r}")
            out.append(re.escape(pattern[place]))
            place += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _char_set(pattern: str, place: int) -> tuple[str, int]:
    """Read a set from behind its `[`; return its regular expression and the place behind its `]`."""
    negated = pattern[place : place + 1] in ("!", "^")
    place += negated
    first, items = place, []
    while place < len(pattern) and (pattern[place] != "]" or place == first):
        low, place = _set_char(pattern, place)
        high = low
        if pattern[place : place + 1] == "-" and pattern[place + 1 : place + 2] not in ("", "]"):
            high, place = _set_char(pattern, place + 1)
        if high < low:
            raise Invalid(f"{low}-{high} is no range", where=f"pattern {pattern!r}")
        items.append(f"{re.escape(low)}-{re.escape(high)}")
    if place >= len(pattern):
        raise Invalid("a [ without its ]", where=f"pattern {pattern!r}")
    return f"[{'^' if negated else ''}{''.join(items)}]", place + 1


def _set_char(pattern: str, place: int) -> tuple[str, int]:
    if pattern[place] == "\\":
        place += 1
    if place >= len(pattern):
        raise Invalid("a [ without its ]", where=f"pattern {pattern!r}")
    return pattern[place], place + 1
