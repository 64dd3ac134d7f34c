"""How layer blobs are compressed: media types, and the way back to plain bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import IO, Protocol, cast

import zstandard
from isal import igzip, igzip_lib
from msgspec.structs import replace

from shipway.errors import Corrupt, Truncated, UnknownMediaType
from shipway.oci import DOCKER_LAYER_GZIP, DOCKER_LAYER_TAR, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, Descriptor
from shipway.trees.entry import Buffer

# The package's stubs take this class for an instance.
_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)
READ_SIZE = 1 << 20
"""Bytes asked of a compressed stream at a time."""


class Compression(StrEnum):
    """The forms a layer blob can have."""

    ZSTD_CHUNKED = "zstd:chunked"
    """zstd with one frame a chunk and a table of contents; read as plain zstd by all who know nothing of it."""
    ZSTD = "zstd"
    GZIP = "gzip"
    ESTARGZ = "estargz"
    """gzip with a member a chunk and a table of contents, which is in the archive too: so the DiffID is another."""
    UNCOMPRESSED = "uncompressed"


_WRITTEN = {
    Compression.ZSTD_CHUNKED: LAYER_ZSTD,
    Compression.ZSTD: LAYER_ZSTD,
    Compression.GZIP: LAYER_GZIP,
    Compression.ESTARGZ: LAYER_GZIP,
    Compression.UNCOMPRESSED: LAYER_TAR,
}
_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_READ = {
    LAYER_TAR: Compression.UNCOMPRESSED,
    LAYER_GZIP: Compression.GZIP,
    LAYER_ZSTD: Compression.ZSTD,
    _NONDISTRIBUTABLE: Compression.UNCOMPRESSED,
    _NONDISTRIBUTABLE + "+gzip": Compression.GZIP,
    _NONDISTRIBUTABLE + "+zstd": Compression.ZSTD,
    DOCKER_LAYER_TAR: Compression.UNCOMPRESSED,
    DOCKER_LAYER_GZIP: Compression.GZIP,
    DOCKER_LAYER_TAR + ".zstd": Compression.ZSTD,
    _DOCKER_FOREIGN: Compression.UNCOMPRESSED,
    _DOCKER_FOREIGN + ".gzip": Compression.GZIP,
}


def media_type(compression: Compression) -> str:
    """Return the media type of a layer written with `compression` (image-spec, layer.md)."""
    return _WRITTEN[compression]


def compression_of(media_type: str, where: str = "") -> Compression:
    """Return how a layer of `media_type` is compressed; `UnknownMediaType`, naming it, if that is no layer."""
    try:
        return _READ[media_type]
    except KeyError:
        raise UnknownMediaType(f"not a layer of a known kind: {media_type[:200]!r}", where=where) from None


def distributable(descriptor: Descriptor) -> Descriptor:
    """Return the descriptor of a layer for an image that is to hold it: what was foreign to its image is no more."""
    media_type = descriptor.media_type
    if media_type.startswith(_NONDISTRIBUTABLE):
        media_type = media_type.replace(_NONDISTRIBUTABLE, LAYER_TAR)
    elif media_type.startswith(_DOCKER_FOREIGN):
        media_type = media_type.replace(_DOCKER_FOREIGN, DOCKER_LAYER_TAR)
    return replace(descriptor, media_type=media_type, urls=())


class ByteSource(Protocol):
    """A stream of bytes that fills buffers."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as there is something left; return the bytes written, fewer only at the end."""


def decompressed(pieces: Iterator[Buffer], compression: Compression, where: str = "") -> ByteSource:
    """Return what `pieces` of a blob decompress to.

    Concatenated gzip members and zstd frames, skippable ones too, are read as
    one stream. Reading raises `Corrupt`, or `Truncated` where the format can tell, naming `where`.
    """
    if compression is Compression.UNCOMPRESSED:
        return _Plain(pieces)
    if compression in (Compression.GZIP, Compression.ESTARGZ):
        return _Gzip(pieces, where)
    return _Zstd(pieces, where)


class _Plain:
    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        done = 0
        while done < len(buffer):
            while not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return done
                self._rest = memoryview(piece)
            size = min(len(self._rest), len(buffer) - done)
            buffer[done : done + size] = self._rest[:size]
            self._rest = self._rest[size:]
            done += size
        return done


class _Readable(_Plain):
    """Pieces as the file object that a gzip reader insists on."""

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])


class Pieces:
    """The file object that a decompressor reads from: each read is one piece."""

    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self._pieces = pieces

    def read(self, _size: int = -1) -> bytes:
        """Return the next piece, nothing at the end."""
        for piece in self._pieces:
            if piece:
                return bytes(piece)
        return b""


class _Zstd:
    def __init__(self, pieces: Iterator[Buffer], where: str) -> None:
        self._where = where
        self._reader = zstandard.ZstdDecompressor().stream_reader(
            cast(IO[bytes], Pieces(pieces)),  # of a file object only `read` is used
            read_across_frames=True,
        )

    def readinto(self, buffer: memoryview, /) -> int:
        done = 0
        try:
            while done < len(buffer):
                size = self._reader.readinto(buffer[done:])
                if not size:
                    break
                done += size
        except zstandard.ZstdError as error:
            raise Corrupt(f"not zstd data: {error}", where=self._where) from error
        return done


class _Gzip:
    def __init__(self, pieces: Iterator[Buffer], where: str) -> None:
        self._where = where
        self._file = igzip.IGzipFile(fileobj=_Readable(pieces), mode="rb")  # type: ignore[no-untyped-call]  # the package has no types

    def readinto(self, buffer: memoryview, /) -> int:
        done = 0
        try:
            while done < len(buffer):
                data = self._file.read(min(READ_SIZE, len(buffer) - done))
                if not data:
                    break
                buffer[done : done + len(data)] = data
                done += len(data)
        except EOFError as error:
            raise Truncated("gzip data ends before its end-of-stream marker", where=self._where) from error
        except (igzip.BadGzipFile, zlib.error, _ISAL_ERROR, OverflowError) as error:
            raise Corrupt(f"not gzip data: {error}", where=self._where) from error
        return done
