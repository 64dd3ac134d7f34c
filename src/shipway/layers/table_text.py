"""The text of a table of contents, JSON, decoded a batch of records at a time: all at once take several times its size.

Where to cut is found by trying. Read from where a record begins, JSON can be taken in only one way; so what stands
before a cut is a list of whole records if it can be decoded as one, and only then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from shipway.errors import Corrupt
from shipway.layers.chunked import Record
from shipway.trees.entry import Buffer

Text = Callable[[], Iterator[Buffer]]
"""Yields a table's text piece by piece, from its beginning whenever it is called. It was checked already."""

BATCH = 256 << 10
"""Bytes of text that are decoded at a time."""
_MOST = 16 << 20
"""Longest record, or beginning or end of a table, in bytes."""
_ENDS = 8
"""Places that are tried for the end of the records, the last ones of the text."""
_BEGIN = re.compile(rb'"entries"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*(,)\s*\{")
T = TypeVar("T")


class _Fields(msgspec.Struct, rename="camel"):
    """What a table says before its entries, or after them."""

    version: int | UnsetType = UNSET
    entries: list[Record] | UnsetType = UNSET
    tar_split_digest: str = ""


_records = msgspec.json.Decoder(list[Record])
_fields = msgspec.json.Decoder(_Fields)


class Batch(NamedTuple):
    """Records that follow one another, and from where to where in the text they stand, without the list's brackets."""

    start: int
    end: int
    records: list[Record]


def batches(text: Iterable[Buffer], where: str, size: int = BATCH) -> Iterator[Batch]:
    """Yield a table's records in their order, those of about `size` bytes at a time.

    Raises `Corrupt`, naming `where`, for what is no table. That may come after records: whoever uses them before the
    end has to undo it.
    """
    reader = _Reader(iter(text), where, size)
    version = reader.take(_beginning).version
    while (batch := reader.take(_batch)) is not None:
        yield Batch(reader.start, reader.start + batch[1], batch[0])
    (records, length), fields = reader.take(_ending)
    if version is UNSET:
        version = fields.version
    elif fields.version is not UNSET:
        raise Corrupt("a table of contents with two versions", where=where)
    if version != 1:
        raise Corrupt(f"a table of contents of the unknown version {version}", where=where)
    yield Batch(reader.start, reader.start + length, records)


def records_in(text: bytes) -> list[Record]:
    """Return the records of a batch, given its text."""
    return _records.decode(b"[" + text + b"]")


def split_digest(text: Text, where: str) -> str:
    """Return the digest of the tar-split that a table speaks of, empty for none; raises as `batches` does."""
    reader = _Reader(text(), where, BATCH)
    found = reader.take(_beginning).tar_split_digest
    while reader.take(_batch) is not None:
        pass
    return reader.take(_ending)[1].tar_split_digest or found


class _Reader:
    """The part of a text that was read and not used."""

    def __init__(self, pieces: Iterator[Buffer], where: str, size: int) -> None:
        self.start = self._next = 0
        """Where in the text that stands which was taken last, and what is next."""
        self._size = size
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._where = where
        self._data = b""

    def take(self, decode: Callable[[bytes, bool], tuple[T, int]]) -> T:
        """Return what `decode` makes of the next of the text, and go on behind what it used.

        It is given more as long as it raises, and told whether that is all.
        """
        size = self._size
        while True:
            ended = self._fill(size)
            try:
                found, used = decode(self._data, ended)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                # What is well-formed and no record will not become one by more text.
                if ended or size >= _MOST or isinstance(error, msgspec.ValidationError):
                    raise Corrupt(f"not a well-formed table: {error}", where=self._where) from error
            else:
                self._data = self._data[used:]
                self.start, self._next = self._next, self._next + used
                return found
            size *= 2

    def _fill(self, size: int) -> bool:
        """Have `size` bytes; return whether the text ends within them."""
        parts: list[Buffer] = [self._data]
        lacking = size - len(self._data)
        while lacking > 0:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._piece = memoryview(piece)
            parts.append(self._piece[:lacking])
            self._piece = self._piece[lacking:]
            lacking -= len(parts[-1])
        self._data = b"".join(parts)
        return lacking > 0


def _beginning(data: bytes, _ended: bool) -> tuple[_Fields, int]:
    """Return what stands before the records."""
    for match in _BEGIN.finditer(data):
        try:
            return _fields.decode(data[: match.end()] + b"]}"), match.end()
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # it stands inside of something else
            continue
    raise msgspec.DecodeError("it has no entries")


def _batch(data: bytes, ended: bool) -> tuple[tuple[list[Record], int] | None, int]:
    """Return the records before the last of a text, and how much of it they are; None if it is all that is left."""
    if ended:
        return None, 0
    comma = data.rfind(b"},{") + 1
    if not comma:
        for match in _BETWEEN.finditer(data):  # the last one is wanted
            comma = match.start(1)
    if not comma:
        raise msgspec.DecodeError("an entry that does not end")
    return (records_in(data[:comma]), comma), comma + 1


def _ending(data: bytes, _ended: bool) -> tuple[tuple[tuple[list[Record], int], _Fields], int]:
    """Return the last records and how much of the text they are, and what stands after them."""
    end = len(data)
    for _ in range(_ENDS):
        end = data.rfind(b"]", 0, end)
        if end < 0:
            break
        try:
            records = records_in(data[:end])
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # it stands inside of something else
            continue
        fields = _fields.decode(b'{"":0' + data[end + 1 :])
        if fields.entries is not UNSET:
            raise msgspec.ValidationError("entries twice")
        return ((records, end), fields), len(data)
    raise msgspec.DecodeError("its entries do not end")
