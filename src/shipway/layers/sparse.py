"""Sparse files in archives: GNU tar's own type, and its PAX forms 0.0, 0.1 and 1.0.

All say the same: the file's real size, and which extents of it are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shipway.errors import Corrupt
from shipway.layers.blocks import Blocks
from shipway.layers.headers import BLOCK
from shipway.layers.numbers import decimal, number
from shipway.trees.entry import Buffer

MAX_EXTENTS = 1 << 18
"""Most extents of one file; a map of more would only serve to fill our memory."""
NAME = b"GNU.sparse.name"
_MAP = b"GNU.sparse.map"
_MAJOR = b"GNU.sparse.major"
_MINOR = b"GNU.sparse.minor"
_OFFSET = b"GNU.sparse.offset"
_NUMBYTES = b"GNU.sparse.numbytes"
_SIZE = b"GNU.sparse.size"
_REALSIZE = b"GNU.sparse.realsize"
MARKS = frozenset({_MAP, _MAJOR})
"""Records of which each sparse file in PAX form has one."""

_OLD_MAP = 386
_OLD_MORE = 482
_OLD_SIZE = 483
_PAIR = 24


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse file: its real size and the extents, as (offset, length), that are stored."""

    size: int
    extents: tuple[tuple[int, int], ...]

    @property
    def stored(self) -> int:
        """Bytes of content that the archive holds."""
        return sum(length for _, length in self.extents)

    def content(self, blocks: Blocks, where: str) -> Iterator[Buffer | int]:
        """Yield the file's content in pieces, its holes as lengths."""
        done = 0
        for offset, length in self.extents:
            if offset > done:
                yield offset - done
            yield from blocks.content(length, where)
            done = offset + length
        if done < self.size:
            yield self.size - done


def merged(records: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return records by key, the repeated ones of form 0.0 joined to the map of form 0.1."""
    whole: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    for key, value in records:
        if key in (_OFFSET, _NUMBYTES):
            pairs.append(value)
        else:
            whole[key] = value
    if pairs:
        whole[_MAP] = b",".join(pairs)
    return whole


def from_records(records: Mapping[bytes, bytes], blocks: Blocks, stored: int, where: str) -> Sparse:
    """Return what the PAX records of a sparse file say; form 1.0 keeps the map before the content."""
    size = decimal(records.get(_REALSIZE, records.get(_SIZE, b"")), where)
    if _MAP in records:
        numbers = [decimal(text, where) for text in records[_MAP].split(b",")] if records[_MAP] else []
        if len(numbers) > 2 * MAX_EXTENTS:
            raise _bad(where)
        return checked(size, numbers, stored, where)
    if (records[_MAJOR], records.get(_MINOR)) != (b"1", b"0"):
        raise Corrupt("a sparse file of an unknown form", where=where)
    numbers, taken = _leading_map(blocks, stored, where)
    return checked(size, numbers, stored - taken, where)


def from_header(block: bytes, blocks: Blocks, stored: int, where: str) -> Sparse:
    """Return what the header block of GNU tar's sparse type, and those that continue it, say."""
    size = number(block[_OLD_SIZE : _OLD_SIZE + 12], where)
    pairs, more = block[_OLD_MAP:_OLD_MORE], block[_OLD_MORE]
    numbers: list[int] = []
    while True:
        for at in range(0, len(pairs) - _PAIR + 1, _PAIR):
            if pairs[at : at + _PAIR].strip(b"\0"):
                numbers += (number(pairs[at : at + 12], where), number(pairs[at + 12 : at + _PAIR], where))
        if not more:
            return checked(size, numbers, stored, where)
        if len(numbers) > 2 * MAX_EXTENTS:
            raise _bad(where)
        block = bytes(blocks.take(BLOCK, where))
        pairs, more = block[: 21 * _PAIR], block[21 * _PAIR]


def checked(size: int, numbers: list[int], stored: int, where: str) -> Sparse:
    """Return the file of `size` bytes with the extents `numbers`, in order, which take `stored` bytes."""
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=len(numbers) % 2 == 0))
    done = 0
    for offset, length in extents:
        if offset < done or length < 0:
            raise _bad(where)
        done = offset + length
    sparse = Sparse(size, extents)
    if len(numbers) % 2 or done > size or sparse.stored != stored:
        raise _bad(where)
    return sparse


def _leading_map(blocks: Blocks, stored: int, where: str) -> tuple[list[int], int]:
    """Return the numbers of the map in front of the content, and how many bytes it takes."""
    numbers: list[int] = []
    taken, count, rest = 0, -1, b""
    while count < 0 or len(numbers) < 2 * count:
        if taken >= stored or len(rest) > BLOCK:
            raise _bad(where)
        *lines, rest = (rest + bytes(blocks.take(BLOCK, where))).split(b"\n")
        taken += BLOCK
        numbers += [decimal(line, where) for line in lines if count < 0 or line.strip(b"\0")]
        if count < 0 and numbers:
            count = numbers.pop(0)
            if count > MAX_EXTENTS:
                raise _bad(where)
    return numbers, taken


def _bad(where: str) -> Corrupt:
    return Corrupt("its map of holes is wrong", where=where)
