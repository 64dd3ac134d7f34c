"""Blobs that were not fetched to their end: whoever wants one next goes on where it broke off.

A partial has its blob's bytes from the beginning, or parts of it (`shipway.local.parts`), nothing verified: all of it
is hashed again together with what is still to come. Whoever works on it holds a lock on the file.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from shipway.local.blobs import Ingest

KEEP_SECONDS = 7 * 86400.0
"""How long a partial waits for somebody to go on with it."""
_NAME = "partial-"


class Partial(Ingest):
    """A blob of which a beginning may be here; what it has when its block is left is there the next time."""

    @classmethod
    def take(cls, path: Path) -> Partial | None:
        """Return the partial at `path`, begun now if there is none; None while somebody else has it."""
        partial = cls(path, new=False)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(partial.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(partial.file.fileno()), os.stat(path)):
                return partial
        partial.file.close()
        return None

    @staticmethod
    def is_fresh(path: Path) -> bool:
        """Whether a file is a partial that somebody may still go on with."""
        if not path.name.startswith(_NAME):
            return False
        with suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < KEEP_SECONDS
        return False

    @classmethod
    def remove(cls, path: Path) -> int:
        """Remove the partial at `path` unless somebody has it; return the bytes that were freed."""
        partial = cls.take(path)
        if partial is None:
            return 0
        try:
            size = os.fstat(partial.file.fileno()).st_blocks * 512
            path.unlink()
        finally:
            partial.file.close()
        return size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None and not self.size():
            self._path.unlink(missing_ok=True)
        self._path = None
        self.file.close()
