"""A layer's archive put together again: headers from the tables in its blob, contents from wherever they are.

Where the headers are those that Shipway makes (`chunked.HEADERS`), the table of contents is enough: they are made
again. Otherwise those of zstd:chunked are in the blob's tar-split, which has every byte of the archive that is no
content, and those of eStargz are compressed with the content before them: the last chunk of each file is needed.
Whichever way, only the DiffID says that the result is right.
"""

from __future__ import annotations

import io
import re
import sys
from binascii import a2b_base64
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import cast

import msgspec
import zstandard
from msgspec.structs import replace

from shipway.errors import Corrupt, Invalid
from shipway.layers import chunked
from shipway.layers.blocks import padding
from shipway.layers.headers import END_OF_ARCHIVE, archive_name, header
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry, clean_archive_path

Member = tuple[Buffer, Entry | None]
"""Raw bytes of the archive, and the file whose content follows them, if one does."""


@dataclass(frozen=True, slots=True)
class SplitLocation:
    """Where in a blob its tar-split is."""

    offset: int
    length: int
    uncompressed: int


class Followed(Chunk, frozen=True, array_like=True, gc=False):
    """A chunk that is wanted with what follows it in what it is compressed in; see `ChunkReader.content`."""

    until: int = 0


class _Line(msgspec.Struct):
    """A line of a tar-split: raw bytes (type 2), or a member of the archive (type 1)."""

    type: int
    payload: str | None = None
    name: str = ""
    name_raw: str = ""
    size: int = 0


_FILE, _SEGMENT = 1, 2
MAX_SPLIT = 4 << 30
"""Most bytes of a tar-split, of which a line is in memory at a time."""
_LINE = 16 << 20
"""Longest line of one, in bytes."""
_ALL = sys.maxsize
_HEAD = Entry(path="", kind="reg", chunks=(Chunk(0, 0, 0, 0, ""),))
_line = msgspec.json.Decoder(_Line)


def makes_own_headers(descriptor: Descriptor) -> bool:
    """Whether a layer's headers can be made again of its table of contents."""
    return descriptor.annotations.get(chunked.HEADERS) == chunked.HEADERS_VERSION


def split_location(descriptor: Descriptor) -> SplitLocation | None:
    """Return where a blob's tar-split is, None if it has none that makes sense."""
    position = descriptor.annotations.get(chunked.PREFIX + chunked.TAR_SPLIT_POSITION, "")
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18}):(\d{1,18})", position)
    if not match:
        return None
    found = SplitLocation(int(match[1]), int(match[2]), int(match[3]))
    fits = found.length and found.offset + found.length <= descriptor.size
    return found if fits and found.length <= chunked.MAX_TABLE and found.uncompressed <= MAX_SPLIT else None


def own_members(
    entries: Iterable[Entry], begin: bytes = b"", end: Iterable[Buffer] = (END_OF_ARCHIVE,)
) -> Iterator[Member]:
    """Yield the archive's members with the headers that Shipway makes of a table's entries; `Corrupt` if it cannot.

    `begin` and `end` are what comes before and after them.
    """
    yield begin, None
    missing = padding(len(begin))
    for entry in entries:
        try:
            raw = bytes(missing) + header(entry, archive_name(entry))
        except Invalid as error:
            raise Corrupt(error.what, where=error.where) from error
        yield raw, entry if entry.size else None
        missing = padding(entry.size)
    yield bytes(missing), None
    for piece in end:
        yield piece, None


def with_tails(entries: Iterable[Entry], end: int, where: str) -> Iterator[Entry]:
    """Yield all of an eStargz archive before its table, which is at `end` of the blob: files, and what follows them.

    The chunks of these files reach up to one another; before the others is one without content, which the first headers
    follow. The last chunk of each file is `Followed`. Files that are compressed together are in memory at a time.
    `Corrupt` if chunks are not in the order that they have in the blob.
    """
    files: deque[Entry] = deque()
    for file in chain((_HEAD,), (entry for entry in entries if entry.size)):
        if files and file.chunks[0].offset != files[-1].chunks[-1].offset:
            yield from _reaching(files, file.chunks[0], end, where)
            files.clear()
        files.append(file)
    yield from _reaching(files, None, end, where)


def _reaching(files: Iterable[Entry], following: Chunk | None, end: int, where: str) -> Iterator[Entry]:
    """Yield files, each with chunks that reach up to the next, up to the one that is `following`, or the `end`."""
    made: list[Entry] = []
    for file in reversed(tuple(files)):
        chunks: list[Chunk] = []
        for chunk in reversed(file.chunks):
            until = _ALL
            if following is not None and following.offset == chunk.offset:
                until = following.inner
            elif following is not None:
                end = following.offset
            length, size = end - chunk.offset, chunk.inner + chunk.size
            if chunk.zeros or length <= 0 or until < size:
                raise Corrupt("its table of contents has chunks that cannot follow one another", where=where)
            following = replace(chunk, length=length)
            last = chunk.offset, length, chunk.start, chunk.size, chunk.digest, False, chunk.inner, until
            chunks.append(following if chunks else Followed(*last))
        made.append(replace(file, chunks=tuple(reversed(chunks))))
    return reversed(made)


def split_members(data: bytes, location: SplitLocation, entries: Iterable[Entry], where: str) -> Iterator[Member]:
    """Yield the archive's members as the tar-split `data`, compressed, has them, whose files are in the table's order.

    `Corrupt` if that makes no sense.
    """
    files = (entry for entry in entries if entry.size)
    left = location.uncompressed
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        lines = io.BufferedReader(cast("io.RawIOBase", reader), 1 << 20)  # of which only reading is used
        while text := lines.readline(_LINE):
            left -= len(text)
            if left < 0:
                raise Corrupt("a tar-split that is longer than was promised", where=where)
            line = _line.decode(text)
            if line.type == _SEGMENT:
                yield a2b_base64(line.payload or ""), None
            elif line.type == _FILE and line.size:
                yield b"", _file(line, next(files, None), where)
        for entry in files:
            raise Corrupt(f"its tar-split does not have {entry.path[:200]!r}", where=where)
    except (zstandard.ZstdError, msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"a tar-split that cannot be read: {error}", where=where) from error


def _file(line: _Line, entry: Entry | None, where: str) -> Entry:
    name = a2b_base64(line.name_raw).decode("utf-8", "surrogateescape") if line.name_raw else line.name
    if entry is None or entry.size != line.size or entry.path != clean_archive_path(name, where):
        raise Corrupt(f"table of contents and tar-split disagree about {name[:200]!r}", where=where)
    return entry


def archive(members: Iterable[Member], contents: Callable[[Entry], Iterator[Buffer]]) -> Iterator[Buffer]:
    """Yield the archive's bytes; `contents` gives those of a file."""
    for raw, entry in members:
        if raw:
            yield raw
        if entry is not None:
            yield from contents(entry)
