"""File contents on their way from a layer to whoever reads the tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import IO, NamedTuple

from shipway import oci
from shipway.trees.entry import Buffer, Content, Entry, OpenFile
from shipway.trees.packed import picked

WHOLE = 1 << 20
"""Content of up to this many bytes is delivered in one piece, unless there is a hole in it."""
_OVERHEAD = 1024
_HELD = 4 << 20
"""Bytes of contents that several files have, about, that wait to be delivered together."""
_WAITING = 100


class Piece(NamedTuple):
    """A part of a file's content, in order; an `int` is a hole of that many bytes."""

    entry: Entry
    data: Buffer | int
    last: bool


def weigh(piece: Piece) -> int:
    """Return about how many bytes of memory a piece takes."""
    return _OVERHEAD if isinstance(piece.data, int) else _OVERHEAD + len(piece.data)


def assemble(pieces: Iterable[Piece]) -> Iterator[tuple[Entry, Content]]:
    """Yield each file with its content; one file's pieces must not be mixed with another's."""
    pieces = iter(pieces)
    for piece in pieces:
        if piece.last and not isinstance(piece.data, int):
            yield piece.entry, piece.data
            continue
        rest = _from(piece, pieces)
        yield piece.entry, rest
        for _ in rest:  # whatever was not asked for
            pass


def _from(piece: Piece, pieces: Iterator[Piece]) -> Iterator[Buffer | int]:
    yield piece.data
    while not piece.last:
        piece = next(pieces)
        yield piece.data


def repeated(
    files: Iterable[tuple[Entry, Content]],
    entries: Collection[Entry],
    others: Callable[[Entry], Sequence[int]],
    make_spool: Callable[[], IO[bytes]],
) -> Iterator[tuple[Entry, Content]]:
    """Yield each of `files`, and with the same content those of `entries` whose numbers `others` names for it.

    Small contents wait until there are many, so that neighbours among the entries come one after the other. Content
    that does not come in one piece is written to a file of `make_spool` on its way.
    """
    waiting: list[tuple[int, Entry, bytes]] = []
    held = 0
    for entry, content in files:
        numbers = others(entry)
        if not numbers:
            yield entry, content
        elif isinstance(content, (bytes, bytearray, memoryview)):
            data = bytes(content)
            yield entry, data
            waiting += [(number, entry, data) for number in numbers]
            held += len(data) + _WAITING * len(numbers)
            if held > _HELD:
                yield from _same(entries, waiting)
                waiting, held = [], 0
        else:
            with make_spool() as spool:
                if not isinstance(content, OpenFile):
                    _spool(content, spool)
                spool.seek(0)
                yield entry, OpenFile(spool.fileno())
                for one in picked(entries, numbers):
                    spool.seek(0)
                    yield _checked(one, entry), OpenFile(spool.fileno())
    yield from _same(entries, waiting)


def _same(entries: Collection[Entry], waiting: list[tuple[int, Entry, bytes]]) -> Iterator[tuple[Entry, bytes]]:
    """Yield the entries of these numbers, each with the content of another that came before."""
    waiting.sort(key=itemgetter(0))
    picks = picked(entries, (number for number, _, _ in waiting))
    for one, (_, entry, data) in zip(picks, waiting, strict=True):
        yield _checked(one, entry), data


def _checked(one: Entry, other: Entry) -> Entry:
    """Return an entry that is to have the content of another, if it is to have the same."""
    oci.check_match(other.digest, one.digest, one.path)
    return one


def _spool(content: Iterator[Buffer | int], spool: IO[bytes]) -> None:
    size = 0
    for piece in content:
        if isinstance(piece, int):
            size += piece
            spool.seek(piece, 1)
        else:
            size += spool.write(piece)
    spool.truncate(size)
    spool.flush()
