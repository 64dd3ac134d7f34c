"""Patterns for whole paths, as a `.dockerignore` has them.

`*` is any run of characters but `/`, `?` any one but `/`, `[a-z]` one of a set and `[^a-z]` one that is
not in it; a backslash takes the meaning from what follows. `**` is any number of directories, none
too; at the end it is everything below. What is below a match matches. The last pattern that matches
decides, and one that begins with `!` makes an exception of what earlier ones matched. Blanks around a
pattern and a `/` before it mean nothing.

The words are those of Go's `path.Match`, which differ from the shell's: `[!a]` is a set of two.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator

from shipway.errors import Invalid

Matched = tuple[bool, ...]
"""Which patterns a directory matched, as those below it need to know."""
_Fits = Callable[[str], object]
_SPECIAL = re.compile(r"[*?\[\]\\]")


class Patterns:
    """A list of patterns, in order. `Invalid` if one is malformed."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile `patterns`; empty ones are left out."""
        if isinstance(patterns, str):
            raise Invalid("one pattern where a list of them is meant", where=f"pattern {patterns!r}")
        self._patterns = [_parse(pattern.strip()) for pattern in patterns if pattern.strip()]

    def matches(self, path: str) -> bool:
        """Whether `path` (relative, without a trailing slash) or a directory that it is in matches."""
        return self.match(path, ())[0]

    def match(self, path: str, parent: Matched) -> tuple[bool, Matched]:
        """Return whether `path` matches, and what those below it are to be asked with as `parent`.

        Without the answers for the directory that it is in, those above are looked at too. A pattern that
        could not change the outcome is not tried, and counts for those below as one that does not fit:
        BuildKit does it so, and digests depend on it.
        """
        matched = False
        answers = []
        for index, (fits, exception) in enumerate(self._patterns):
            answer = bool(parent) and parent[index]
            if not answer and exception is matched:
                answer = bool(fits(path)) or (not parent and any(fits(above) for above in _above(path)))
            if answer:
                matched = not exception
            answers.append(answer)
        return matched, tuple(answers)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return what fully matches the names that a pattern for one component means; `**` is no more than `*`."""
    return re.compile("".join(_translated(pattern, deep=False)))


def _parse(pattern: str) -> tuple[_Fits, bool]:
    exception = pattern.startswith("!")
    path = pattern[1:].strip() if exception else pattern
    if not path:
        raise Invalid("an exception of nothing", where=f"pattern {pattern!r}")
    path = posixpath.normpath(path).lstrip("/") or "/"
    return re.compile(_regex(path)).fullmatch, exception


def _regex(pattern: str) -> str:
    """Return a pattern as a regular expression; `**` passes over line ends only next to plain text, as in Go."""
    start, end = pattern.startswith("**"), pattern.endswith("**")
    if start and not _SPECIAL.search(pattern, 2):
        return "(?s:.*/)?" + re.escape(pattern[3:]) if pattern[2:3] == "/" else "(?s:.*)" + re.escape(pattern[2:])
    if end and not _SPECIAL.search(pattern[:-2]):
        return re.escape(pattern[:-2]) + "(?s:.*)"
    return "".join(_translated(pattern, deep=True))


def _translated(pattern: str, *, deep: bool) -> Iterator[str]:
    """Yield the pieces of a regular expression; with `deep`, `**` goes through directories."""
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            if deep and pattern.startswith("*", place):
                place += 2 if pattern.startswith("*/", place) else 1
                yield "(?:.*/)?" if place < len(pattern) else ".*"
            else:
                yield "[^/]*"
        elif char == "?":
            yield "[^/]"
        elif char == "[":
            text, place = _char_set(pattern, place)
            yield text
        elif char == "\\":
            if place == len(pattern):
                raise Invalid("ends in a backslash", where=f"pattern {pattern!r}")
            yield re.escape(pattern[place])
            place += 1
        else:
            yield re.escape(char)


def _char_set(pattern: str, place: int) -> tuple[str, int]:
    """Read a set from behind its `[`; return its regular expression and the place behind its `]`."""
    negated = pattern.startswith("^", place)
    place += negated
    items: list[str] = []
    while not items or not pattern.startswith("]", place):
        low, place = _set_char(pattern, place)
        high = low
        if pattern.startswith("-", place):
            high, place = _set_char(pattern, place + 1)
        if high < low:
            raise Invalid(f"{low}-{high} is no range", where=f"pattern {pattern!r}")
        items.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{'^' if negated else ''}{''.join(items)}]", place + 1


def _set_char(pattern: str, place: int) -> tuple[str, int]:
    if pattern[place : place + 1] in ("-", "]"):
        raise Invalid(f"a {pattern[place]} in a set without a backslash", where=f"pattern {pattern!r}")
    place += pattern.startswith("\\", place)
    if place >= len(pattern):
        raise Invalid("a [ without its ]", where=f"pattern {pattern!r}")
    return pattern[place], place + 1


def _above(path: str) -> Iterator[str]:
    """Yield the directories that `path` is in, the top one first."""
    place = path.find("/")
    while place > 0:
        yield path[:place]
        place = path.find("/", place + 1)
