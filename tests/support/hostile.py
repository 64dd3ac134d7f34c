"""Archives as their bytes, so that they can say anything: members, extended headers, frames, tables, images."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zstandard

from shipway import oci
from shipway.layers.chunked import CHECKSUM, POSITION, PREFIX, Record
from shipway.oci import Descriptor, ImageConfig, Manifest, RootFS

BLOCK = 512
END = bytes(2 * BLOCK)
SIZE_MAX = 8**11
Number = int | bytes
"""A number, written as the field has it, or the bytes of the field."""


def octal(value: Number, width: int) -> bytes:
    """Return a header field: octal digits, or base-256 for what they cannot say."""
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")[:width]
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base_256(value, width)


def base_256(value: int, width: int = 12) -> bytes:
    """Return a number as GNU tar writes what octal cannot say; it may be negative."""
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def head(
    kind: bytes,
    name: bytes | str,
    *,
    link: bytes | str = b"",
    size: Number = 0,
    mode: Number = 0o644,
    uid: Number = 0,
    gid: Number = 0,
    mtime: Number = 0,
    dev: tuple[Number, Number] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    """Return a ustar header block with the right checksum, whatever is in it."""
    fields = (
        _bytes(name).ljust(100, b"\0")[:100],
        octal(mode, 8),
        octal(uid, 8),
        octal(gid, 8),
        octal(size, 12),
        octal(mtime, 12),
        b" " * 8,
        kind,
        _bytes(link).ljust(100, b"\0")[:100],
        b"ustar\x0000",
        bytes(64),
        octal(dev[0], 8),
        octal(dev[1], 8),
        prefix.ljust(155, b"\0")[:155],
        bytes(12),
    )
    return sealed(b"".join(fields))


def sealed(block: bytes) -> bytes:
    """Return a header block with the checksum that it should have."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def padded(data: bytes) -> bytes:
    """Return `data` filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def reg(name: bytes | str, data: bytes = b"evil", **fields: Any) -> bytes:
    """Return a file."""
    return head(b"0", name, **{"size": len(data), **fields}) + padded(data)


def folder(name: bytes | str, mode: Number = 0o755) -> bytes:
    """Return a directory."""
    return head(b"5", name, mode=mode)


def symlink(name: bytes | str, target: bytes | str) -> bytes:
    """Return a symlink."""
    return head(b"2", name, link=target)


def hardlink(name: bytes | str, target: bytes | str) -> bytes:
    """Return a hard link."""
    return head(b"1", name, link=target)


def device(name: bytes | str, kind: bytes = b"3", dev: tuple[Number, Number] = (1, 3)) -> bytes:
    """Return a device."""
    return head(kind, name, dev=dev)


def record(key: str, value: bytes | str) -> bytes:
    """Return a PAX record of the right length."""
    rest = b" " + key.encode() + b"=" + _bytes(value) + b"\n"
    size = len(rest) + 1
    while len(str(size)) + len(rest) != size:
        size += 1
    return str(size).encode() + rest


def raw_pax(data: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header with any bytes in the place of its records."""
    return head(kind, "PaxHeader", size=len(data)) + padded(data)


def pax(**records: bytes | str) -> bytes:
    """Return an extended header; two underscores of a key are a dot."""
    return raw_pax(b"".join(record(key.replace("__", "."), value) for key, value in records.items()))


def gnu_name(name: bytes | str, kind: bytes = b"L") -> bytes:
    """Return a GNU long name (`K`: link) header."""
    data = _bytes(name) + b"\0"
    return head(kind, "././@LongLink", size=len(data)) + padded(data)


def gnu_sparse(
    name: str, real: Number, pairs: Sequence[tuple[Number, Number]], data: bytes, more: bytes = b""
) -> bytes:
    """Return a file of GNU tar's sparse type; `more` are blocks that continue the map."""
    block = bytearray(head(b"S", name, size=len(data)))
    for index, (offset, length) in enumerate(pairs):
        at = 386 + 24 * index
        block[at : at + 24] = octal(offset, 12) + octal(length, 12)
    block[482] = bool(more)
    block[483:495] = octal(real, 12)
    return sealed(bytes(block)) + more + padded(data)


def zstd(data: bytes, *, checksum: bool = False, dictionary: bytes = b"") -> bytes:
    """Return one zstd frame that says how large its content is."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=True, write_checksum=checksum)
    words = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    return zstandard.ZstdCompressor(dict_data=words, compression_params=parameters).compress(data)


def zstd_window(log: int) -> bytes:
    """Return a frame that asks for a window of 2^`log` bytes (RFC 8878, section 3.1.1.1), and holds one byte."""
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(log - 10) << 3]) + b"\x09\x00\x00" + b"x"


def gz(data: bytes) -> bytes:
    """Return a gzip member."""
    return gzip.compress(data, mtime=0)


@dataclass(frozen=True)
class Blob:
    """A layer as a registry has it: bytes, media type and annotations, and the DiffID it is said to have."""

    data: bytes
    media_type: str = oci.LAYER_TAR
    diff_id: str = ""
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """Its descriptor, which tells the truth about the bytes."""
        return Descriptor(
            media_type=self.media_type,
            digest=oci.sha256(self.data),
            size=len(self.data),
            annotations={oci.UNCOMPRESSED: self.diff_id, **self.annotations} if self.diff_id else self.annotations,
        )


def plain(*members: bytes) -> Blob:
    """Return an uncompressed layer of `members` and an end."""
    data = b"".join(members) + END
    return Blob(data, diff_id=oci.sha256(data))


def compressed(data: bytes, media_type: str, tar: bytes) -> Blob:
    """Return a layer of any bytes, said to decompress to `tar`."""
    return Blob(data, media_type, oci.sha256(tar))


def with_table(tar: bytes, records: Sequence[Record], frames: Sequence[bytes], **changes: Any) -> Blob:
    """Return a zstd:chunked layer: `frames` decompress to `tar`, `records` are what the table says."""
    table = msgspec.json.encode({"version": 1, "entries": list(records)})
    return with_raw_table(tar, table, frames, **changes)


def with_raw_table(
    tar: bytes,
    table: bytes,
    frames: Sequence[bytes],
    *,
    position: str = "{offset}:{length}:{plain}:1",
    packed: bytes | None = None,
    checksum: str = "",
    more: dict[str, str] | None = None,
) -> Blob:
    """Return a layer with any bytes for a table, under the right digest unless `checksum` says another."""
    packed = zstd(table) if packed is None else packed
    body = b"".join(frames)
    # As a skippable frame: who reads the blob as a stream passes over it.
    data = body + b"\x50\x2a\x4d\x18" + len(packed).to_bytes(4, "little") + packed
    where = position.format(offset=len(body) + 8, length=len(packed), plain=len(table), size=len(data))
    annotations = {PREFIX + CHECKSUM: checksum or oci.sha256(packed), PREFIX + POSITION: where, **(more or {})}
    return Blob(data, oci.LAYER_ZSTD, oci.sha256(tar), annotations)


@dataclass(frozen=True)
class Packaged:
    """An image: configuration, manifest and the layers' bytes."""

    config: bytes
    manifest: bytes
    blobs: tuple[bytes, ...]


def image(*layers: Blob) -> Packaged:
    """Return an image of `layers`, base first."""
    config = oci.encode(
        ImageConfig(architecture="", os="linux", rootfs=RootFS(diff_ids=tuple(layer.diff_id for layer in layers)))
    )
    manifest = oci.encode(
        Manifest(
            schema_version=2,
            media_type=oci.MANIFEST,
            config=Descriptor(media_type=oci.CONFIG, digest=oci.sha256(config), size=len(config)),
            layers=tuple(layer.descriptor for layer in layers),
        )
    )
    return Packaged(config, manifest, tuple(layer.data for layer in layers))


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
