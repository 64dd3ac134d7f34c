"""What the options before the command say, and what every command is handed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from shipway.cache import Cache
    from shipway.config import InForce
    from shipway.refs import Ref


@dataclass(frozen=True, slots=True)
class Session:
    """The global options of one run of the program."""

    config: Path | None
    root: Path | None
    driver: str | None
    remotes: tuple[str, ...] | None
    platform: str | None
    json: bool

    def open(self, *, repair: bool = True) -> Cache:
        """Return the opened store, to be used in a `with` block; see `Cache.open` for `repair`."""
        from shipway.cache import Cache  # noqa: PLC0415  --help and wrong usage need not wait for it

        return Cache.open(config=self.config, repair=repair, **self._arguments())

    def in_force(self) -> InForce:
        """Return the configuration, and where its values come from."""
        from shipway.config import load  # noqa: PLC0415  same

        return load(self.config, **self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {"root": self.root, "driver": self.driver, "remotes": self.remotes, "platform": self.platform}

    def size_of(self, ref: Ref) -> int | None:
        """Return the size of a ref, in bytes, if it is to be printed: to measure it takes a system call a file."""
        return ref.size() if self.json else None

    def show(self, document: Any, lines: Iterable[str]) -> None:
        """Print `document` as JSON if that was asked for, else `lines`, as they come; see `print_json`."""
        if self.json:
            print_json(document)
        else:
            for line in lines:
                sys.stdout.write(line + "\n")


InSession = Annotated[Session, Parameter(parse=False)]
"""The type of the `session` parameter of a command, which is filled in and not parsed."""


class Members:
    """The members of a JSON object that is printed as they come.

    A value is asked for when those before it were printed, so that it can tell what they came to.
    """

    def __init__(self, members: Iterable[tuple[str, Any]]) -> None:
        """Take pairs of a name and a value, which may be an iterator."""
        self.members = members


def print_json(document: Any) -> None:
    """Print one JSON document on one line and flush it; an iterator of documents is listed, as they come.

    Bytes of names that are not UTF-8 are lone surrogates, as Python has them.
    """
    for piece in _pieces(document):
        sys.stdout.write(piece)
    sys.stdout.write("\n")
    sys.stdout.flush()


def _pieces(document: Any) -> Iterator[str]:
    if isinstance(document, Members):
        pairs = ((f"{json.dumps(name)}: ", value) for name, value in document.members)
        yield from _enclosed("{}", pairs)
    elif isinstance(document, Iterator):
        yield from _enclosed("[]", (("", one) for one in document))
    else:
        yield json.dumps(document)


def _enclosed(brackets: str, items: Iterable[tuple[str, Any]]) -> Iterator[str]:
    yield brackets[0]
    for number, (before, value) in enumerate(items):
        yield f", {before}" if number else before
        yield from _pieces(value)
    yield brackets[1]
