"""Hostile compression, one line each: how it ends and the bytes of the blob; all are said to inflate to the same archive."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import zstandard

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError, TooLarge, Truncated
from support.hostile import END, Blob, compressed, gnu_sparse, gz, head, pax, plain, reg, zstd, zstd_window

# fmt: off
Error = type[ShipwayError] | None
OK: Error = None

TAR = reg("a", b"content" * 1000) + reg("b") + END
MIB = 1 << 20
SIZE, ENTRIES = 16 * MIB, 1000
"""The limits that these are held to."""
EMPTY_FRAME = zstd(b"")
EMPTY_MEMBER = gz(b"")


def skippable(data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data) if size is None else size) + data


def member(data: bytes, *, flags: int = 0, extra: bytes = b"", crc: int | None = None, size: int | None = None) -> bytes:
    """Return a gzip member with anything in its header and trailer (RFC 1952)."""
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(data) + deflate.flush()
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + body + struct.pack("<II", zlib.crc32(data) if crc is None else crc, len(data) if size is None else size)


def bomb(piece: bytes, count: int) -> bytes:
    """Return a member whose content is `piece`, `count` times over, in one deflate stream."""
    return zlib.compress(piece * count, 9, wbits=31)


def bit_flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


# A dictionary is nothing that a layer can bring along.
WORDS = b"content" * 100
TRAINED = zstandard.train_dictionary(1024, [b"%d content of a file %d" % (n, n * n) for n in range(2000)])
FILE_HEAD = head(b"0", "a", size=64 * MIB)

Wanted = Error | tuple[Error, Error]
"""How it ends, for who pulls and for who extracts where that is not the same: he knows no DiffID, and stops at the archive's end."""

ZSTD: dict[str, tuple[Wanted, bytes]] = {
    "one frame": (OK, zstd(TAR)),
    "a frame of each byte": (OK, b"".join(zstd(TAR[at : at + 1]) for at in range(2000)) + zstd(TAR[2000:])),
    "frames that pass over": (OK, skippable(b"x" * 1000) + zstd(TAR[:700]) + skippable(b"") * 1000 + zstd(TAR[700:]) + skippable(b"y")),
    "ten thousand frames of nothing": (OK, EMPTY_FRAME * 10_000 + zstd(TAR)),
    "a frame that passes over 4 GiB": (Corrupt, skippable(b"", 2**32 - 1) + zstd(TAR)),
    "frames that pass over, and nothing else": (Corrupt, skippable(b"x" * 1000)),
    "nothing": (Corrupt, b""),
    "a frame in a frame": (Corrupt, zstd(zstd(TAR))),
    "a window of 2 GiB": (Corrupt, zstd_window(31)),
    "a window of 2 TiB": (Corrupt, zstd_window(41)),
    "a dictionary's number": (Corrupt, zstandard.ZstdCompressor(dict_data=TRAINED).compress(TAR)),
    "a dictionary of no number": (Corrupt, zstd(TAR, dictionary=TAR)),
    "a wrong checksum": (Corrupt, bit_flipped(zstd(TAR, checksum=True), -1)),
    "a flipped bit": (Corrupt, bit_flipped(zstd(TAR, checksum=True), 30)),
    "an unused bit": (OK, bit_flipped(zstd(TAR), 4)),
    "a reserved bit": (Corrupt, zstd(TAR)[:4] + bytes([zstd(TAR)[4] | 8]) + zstd(TAR)[5:]),
    "a reserved block": (Corrupt, b"\x28\xb5\x2f\xfd\x00\x58\x07\x00\x00"),
    "garbage behind it": (Corrupt, zstd(TAR) + b"garbage that is no frame"),
    "a byte behind it": (Corrupt, zstd(TAR) + b"x"),
    "zeros behind it": (Corrupt, zstd(TAR) + bytes(512)),
    "cut in half": (Corrupt, zstd(TAR)[: len(zstd(TAR)) // 2]),
    "cut after its magic number": (Corrupt, zstd(TAR)[:4]),
    "cut before the second frame's end": (Corrupt, zstd(TAR[:8192]) + zstd(TAR[8192:])[:-3]),
    "another archive": ((DigestMismatch, OK), zstd(reg("c") + END)),
    "gzip": (Corrupt, gz(TAR)),
    "no compression": (Corrupt, TAR),
    "a legacy frame": (Corrupt, b"\x27\xb5\x2f\xfd" + bytes(100)),
    "a size that is a lie": (Corrupt, b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00"),
    "64 MiB of one letter": (TooLarge, zstd(FILE_HEAD) + zstd(b"x" * MIB) * 64),
    "64 GiB of zeros": (TooLarge, zstd(FILE_HEAD) + zstd(bytes(MIB)) * 65_536),
    "64 GiB of zeros behind the archive": ((TooLarge, OK), zstd(TAR) + zstd(bytes(MIB)) * 65_536),
    "a quarter of a million entries": (TooLarge, zstd(head(b"5", "d") * 256) * 1000),
}
GZIP: dict[str, tuple[Wanted, bytes]] = {
    "one member": (OK, gz(TAR)),
    "a member of each byte": (OK, b"".join(gz(TAR[at : at + 1]) for at in range(2000)) + gz(TAR[2000:])),
    "a thousand members of nothing": (OK, EMPTY_MEMBER * 1000 + gz(TAR)),
    "a name and a comment": (OK, member(TAR, flags=0x18, extra=b"name" * 10_000 + b"\0" + b"comment\0")),
    "an extra field": (OK, member(TAR, flags=0x04, extra=b"\xff\xff" + bytes(65535))),
    "a name that never ends": (Corrupt, b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * MIB),
    "an extra field that is not there": (Corrupt, b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff"),
    "an unknown method": (Corrupt, b"\x1f\x8b\x09\x00" + bytes(6) + gz(TAR)[10:]),
    "a wrong checksum": (Corrupt, member(TAR, crc=0)),
    "a wrong size": (Corrupt, member(TAR, size=0)),
    "a reserved block": (Corrupt, b"\x1f\x8b\x08\x00" + bytes(6) + b"\x07" + bytes(8)),
    "a distance beyond the beginning": (Corrupt, b"\x1f\x8b\x08\x00" + bytes(6) + b"\x03\x02\x00" + bytes(8)),
    "garbage behind it": (Corrupt, gz(TAR) + b"garbage that is no member"),
    "cut in half": (Truncated, gz(TAR)[: len(gz(TAR)) // 2]),
    "cut in its header": (Truncated, gz(TAR)[:6]),
    "cut in its trailer": (Truncated, gz(TAR)[:-4]),
    "nothing": (Corrupt, b""),
    "zstd": (Corrupt, zstd(TAR)),
    "another archive": ((DigestMismatch, OK), gz(reg("c") + END)),
    "64 MiB of one letter": (TooLarge, bomb(FILE_HEAD + b"x" * (MIB - 512), 1) + bomb(b"x" * MIB, 64)),
    "64 MiB of zeros": (TooLarge, bomb(FILE_HEAD + bytes(MIB - 512), 1) + bomb(bytes(MIB), 64)),
    "a quarter of a million entries": (TooLarge, bomb(head(b"5", "d"), 250_000)),
}
PLAIN: dict[str, tuple[Error, Blob]] = {
    "as many entries as allowed": (OK, plain(head(b"5", "d") * ENTRIES)),
    "an entry more": (TooLarge, plain(head(b"5", "d") * (ENTRIES + 1))),
    "holes as large as allowed": (OK, plain(pax(GNU__sparse__map="0,4", GNU__sparse__size=str(SIZE)) + reg("a", b"1234"))),
    "a hole a byte larger": (TooLarge, plain(pax(GNU__sparse__map="0,4", GNU__sparse__size=str(SIZE + 1)) + reg("a", b"1234"))),
    "GNU's type: a hole a byte larger": (TooLarge, plain(gnu_sparse("a", SIZE + 1, [(0, 4)], b"1234"))),
    "many files of holes": (TooLarge, plain(*(pax(GNU__sparse__map="0,4", GNU__sparse__size=str(MIB)) + reg(f"a{n}", b"1234") for n in range(17)))),
    "anything behind the end": (OK, plain(reg("a") + END + b"anything" * 1000)),
}

FRAMES: dict[str, tuple[Wanted, Callable[[], Blob]]] = {
    **{f"zstd: {name}": (wanted, lambda data=data: compressed(data, oci.LAYER_ZSTD, TAR)) for name, (wanted, data) in ZSTD.items()},  # type: ignore[misc]  # mypy does not know what a default of a lambda is
    **{f"gzip: {name}": (wanted, lambda data=data: compressed(data, oci.LAYER_GZIP, TAR)) for name, (wanted, data) in GZIP.items()},  # type: ignore[misc]  # same
    **{f"limit: {name}": (wanted, lambda blob=blob: blob) for name, (wanted, blob) in PLAIN.items()},  # type: ignore[misc]  # same
}
"""How each ends, and what makes the layer."""
