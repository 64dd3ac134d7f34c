"""Writing blobs to files that may be unbuffered, or full."""

from __future__ import annotations

import errno
from typing import BinaryIO

from shipway.errors import NoSpace
from shipway.trees.entry import Buffer


def write_all(out: BinaryIO, data: Buffer, where: str) -> None:
    """Write all of `data`, also to a raw file that takes less at a time; `NoSpace` when the disk is full."""
    try:
        written = out.write(data)
        if written < len(data):
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[out.write(rest) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("no space left to write the blob", where=where, todo="free some and try again") from error
        raise
