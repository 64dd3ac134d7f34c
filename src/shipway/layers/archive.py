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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec
import zstandard
from msgspec.structs import replace

from shipway import oci
from shipway.errors import Corrupt, Invalid
from shipway.layers import chunked
from shipway.layers.blocks import padding
from shipway.layers.headers import END_OF_ARCHIVE, archive_name, header
from shipway.layers.toc import TocLocation
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Chunk, Entry, clean_archive_path

Member = tuple[bytes, Entry | None]
"""Raw bytes of the archive, and the file whose content follows them, if one does."""


@dataclass(frozen=True, slots=True)
class SplitLocation:
    """Where in a blob its tar-split is."""

    offset: int
    length: int
    uncompressed: int


class _SplitDigest(msgspec.Struct, rename="camel"):
    """What a table of contents says of the tar-split."""

    tar_split_digest: str = ""


class _Line(msgspec.Struct):
    """A line of a tar-split: raw bytes (type 2), or a member of the archive (type 1)."""

    type: int
    payload: str | None = None
    name: str = ""
    name_raw: str = ""
    size: int = 0


_FILE, _SEGMENT = 1, 2
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
    return found if fits and max(found.length, found.uncompressed) <= chunked.MAX_TABLE else None


def own_members(entries: Iterable[Entry], begin: bytes = b"", end: bytes = END_OF_ARCHIVE) -> Iterator[Member]:
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
    yield bytes(missing) + end, None


def with_tails(entries: Iterable[Entry], end: int, where: str) -> tuple[list[Entry], dict[Chunk, int]]:
    """Return all of an eStargz archive before its table, which is at `end` of the blob: files, and what follows them.

    The chunks of these files reach up to one another; before the others is one without content, which the first headers
    follow. For the last chunk of each file it is said how far what follows reaches in what it is compressed
    in, see `ChunkReader.content`. `Corrupt` if chunks are not in the order that they have in the blob.
    """
    files = [_HEAD, *(entry for entry in entries if entry.size)]
    made: list[Entry] = []
    tails: dict[Chunk, int] = {}
    following: Chunk | None = None
    for file in reversed(files):
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
            if not chunks:
                tails[following] = until
            chunks.append(following)
        made.append(replace(file, chunks=tuple(reversed(chunks))))
    return made[::-1], tails


def check_split(data: bytes, table: bytes, location: TocLocation, where: str) -> None:
    """Raise `DigestMismatch` if the compressed `table` speaks of another tar-split than `data`."""
    reader = zstandard.ZstdDecompressor().stream_reader(table, read_across_frames=True)
    digest = oci.decode(reader.read(location.uncompressed), _SplitDigest, where).tar_split_digest
    if digest:
        oci.check_match(oci.sha256(data), digest, f"{where}, tar-split")


def split_members(data: bytes, location: SplitLocation, entries: Iterable[Entry], where: str) -> Iterator[Member]:
    """Yield the archive's members as the tar-split `data`, compressed, has them; `Corrupt` if that makes no sense."""
    files: Mapping[str, Entry] = {entry.path: entry for entry in entries if entry.size}
    left = location.uncompressed
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        for text in io.BufferedReader(cast("io.RawIOBase", reader), 1 << 20):  # of which only reading is used
            left -= len(text)
            if left < 0:
                raise Corrupt("a tar-split that is longer than was promised", where=where)
            line = _line.decode(text)
            if line.type == _SEGMENT:
                yield a2b_base64(line.payload or ""), None
            elif line.type == _FILE and line.size:
                yield b"", _file(line, files, where)
    except (zstandard.ZstdError, msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"a tar-split that cannot be read: {error}", where=where) from error


def _file(line: _Line, files: Mapping[str, Entry], where: str) -> Entry:
    name = a2b_base64(line.name_raw).decode("utf-8", "surrogateescape") if line.name_raw else line.name
    entry = files.get(clean_archive_path(name, where))
    if entry is None or entry.size != line.size:
        raise Corrupt(f"table of contents and tar-split disagree about {name[:200]!r}", where=where)
    return entry


def archive(members: Iterable[Member], contents: Callable[[Entry], Iterator[Buffer]]) -> Iterator[Buffer]:
    """Yield the archive's bytes; `contents` gives those of a file."""
    for raw, entry in members:
        if raw:
            yield raw
        if entry is not None:
            yield from contents(entry)
