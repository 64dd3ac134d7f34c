"""zstd:chunked as written into a blob: names, limits, and the records of its table of contents.

The format is that of containers/storage, third generation; of the earlier
ones only the annotations' prefix and what the table may leave out differ.
"""

from __future__ import annotations

import struct
import time
from functools import lru_cache
from typing import Annotated

import msgspec

PREFIX = "io.github.containers.zstd-chunked."
OLD_PREFIX = "io.containers.zstd-chunked."
"""What the first generation called it."""
CHECKSUM = "manifest-checksum"
POSITION = "manifest-position"
TAR_SPLIT_POSITION = "tarsplit-position"
HEADERS = "dev.shipway.layer.headers"
"""Shipway's own: the archive's headers are those that version of `layers.headers` makes of the table of contents."""
HEADERS_VERSION = "1"
ESTARGZ = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation of an eStargz table of contents; a layer has one kind or the other."""

TABLE_TYPE = 1
MAX_TABLE = 150 << 20
"""Largest table of contents, in bytes, that readers take, compressed or not."""
MAGIC = b"GNUlInUx"
SKIPPABLE = struct.Struct("<II")
SKIPPABLE_MAGIC = 0x184D2A50
FOOTER = struct.Struct("<7Q8s")


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """An entry of the table of contents, or a further chunk of the file before it.

    The two `raw` keys are Shipway's own: JSON cannot hold names that are not UTF-8.
    """

    type: str
    name: str
    link_name: str = ""
    mode: Count = 0
    uid: Count = 0
    gid: Count = 0
    size: Count = 0
    modtime: str = ""
    dev_major: Count = 0
    dev_minor: Count = 0
    xattrs: dict[str, str] = {}
    digest: str = ""
    offset: Count = 0
    end_offset: Count = 0
    chunk_size: Count = 0
    chunk_offset: Count = 0
    chunk_digest: str = ""
    chunk_type: str = ""
    name_raw: str = ""
    link_name_raw: str = ""
    xattrs_raw: dict[str, str] = {}
    inner_offset: Count = 0
    """eStargz: how many bytes of the gzip member come before the chunk."""


def skippable(size: int) -> bytes:
    """Return what begins a zstd frame of `size` more bytes that decompressors pass over (RFC 8878, section 3.1.2)."""
    return SKIPPABLE.pack(SKIPPABLE_MAGIC, size)


FIRST_SECOND = -62135596800
LAST_SECOND = 253402300799


@lru_cache(maxsize=4096)
def _minute(minutes: int) -> str:
    year, month, day, hour, minute = time.gmtime(minutes * 60)[:5]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}"


def modtime(ns: int) -> str:
    """Return a time as RFC 3339 has it, with as many digits as it needs; empty for the epoch.

    A year that RFC 3339 cannot write becomes the nearest one that it can.
    """
    if not ns:
        return ""
    seconds, fraction = divmod(ns, 1_000_000_000)
    minutes, second = divmod(min(max(seconds, FIRST_SECOND), LAST_SECOND), 60)
    digits = f".{fraction:09}".rstrip("0") if fraction else ""
    return f"{_minute(minutes)}:{second:02}{digits}Z"
