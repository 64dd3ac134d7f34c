"""File contents on their way from a layer to whoever reads the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

from shipway.trees.entry import Buffer, Content, Entry, OpenFile

WHOLE = 1 << 20
"""Content of up to this many bytes is delivered in one piece, unless there is a hole in it."""
_OVERHEAD = 512


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
    files: Iterable[tuple[Entry, Content]], more: Callable[[Entry], list[Entry]], make_spool: Callable[[], IO[bytes]]
) -> Iterator[tuple[Entry, Content]]:
    """Yield each of `files`, and with the same content the entries that `more` names for it.

    Content that does not come in one piece is written to a file of `make_spool` on its way.
    """
    for entry, content in files:
        others = more(entry)
        if not others:
            yield entry, content
        elif isinstance(content, (bytes, bytearray, memoryview)):
            for one in (entry, *others):
                yield one, content
        else:
            with make_spool() as spool:
                if not isinstance(content, OpenFile):
                    _spool(content, spool)
                for one in (entry, *others):
                    spool.seek(0)
                    yield one, OpenFile(spool.fileno())


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
