"""Ranges from places that refuse them: the whole blob is fetched once, checked, and read here.

Such a blob lies in a file without a name until the remote is closed. Nothing happens for places that answer ranges.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from shipway import oci
from shipway.local.blobs import disk_errors
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource, RangesRefused, Remote, until_right
from shipway.remotes.wrapped import WrappedRemote

_PIECE = 1 << 20


class _Spool:
    """One blob; `file` is set once it is here and checked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.file: IO[bytes] | None = None


class SpooledRanges(WrappedRemote):
    """Answers every range of what `remote` has, from the whole blob if need be. Thread-safe."""

    def __init__(self, remote: Remote, staging: Path) -> None:
        """Take over `remote`; whole blobs are kept in the directory `staging`."""
        super().__init__(remote)
        self._staging = staging
        self._lock = threading.Lock()
        self._spools: dict[str, _Spool] = {}

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes | memoryview]]:
        """Open a stream over a blob; see `BlobSource.read_blob`."""
        with ExitStack() as stack:
            try:
                pieces = stack.enter_context(self._remote.read_blob(descriptor, offset, length))
            except RangesRefused:
                end = descriptor.size if length is None else offset + length
                pieces = _read(self._whole(descriptor), offset, end)
            yield pieces

    def _whole(self, descriptor: Descriptor) -> IO[bytes]:
        with self._lock:
            spool = self._spools.setdefault(descriptor.digest, _Spool())
        with spool.lock:
            if spool.file is None:
                spool.file = self._fetch(descriptor)
            return spool.file

    def _fetch(self, descriptor: Descriptor) -> IO[bytes]:
        where = f"{self.name}@{descriptor.digest}"
        with disk_errors(where):
            file = tempfile.TemporaryFile(dir=self._staging, prefix="whole-")  # noqa: SIM115  closed in close()
        try:
            copy_blob(self._remote, descriptor, file, where)
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Let go of connections and blobs."""
        super().close()
        with self._lock:
            for spool in self._spools.values():
                if spool.file is not None:
                    spool.file.close()
            self._spools.clear()


def _read(file: IO[bytes], position: int, end: int) -> Iterator[bytes]:
    while position < end:
        piece = os.pread(file.fileno(), min(_PIECE, end - position), position)
        position += len(piece)
        yield piece


def copy_blob(blobs: BlobSource, descriptor: Descriptor, file: IO[bytes], where: str) -> None:
    """Write a whole blob into a file, in place of all that it holds; it has been checked then.

    Raises what `blobs` raises, `DigestMismatch` if no place gives the right bytes, `NoSpace` for a full disk.
    """
    until_right(partial(_copy, blobs, descriptor, file, where))


def _copy(blobs: BlobSource, descriptor: Descriptor, file: IO[bytes], where: str) -> None:
    with blobs.read_blob(descriptor) as pieces, disk_errors(where):
        file.seek(0)
        file.truncate()
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        oci.check_match(f"sha256:{digest.hexdigest()}", descriptor.digest, where)
