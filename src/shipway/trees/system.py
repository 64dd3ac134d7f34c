"""What the operating system says about writing: the umask it applies, and its errors as ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from shipway.errors import Corrupt, Invalid, NoSpace, ShipwayError, Unavailable, UnsafeEntry


def read_umask() -> int:
    """Return this process's umask without setting it, which would show in other threads."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777  # unknown: then every mode is set explicitly


def typed(error: Exception, path: str) -> ShipwayError:
    """Return what the system said while `path` was written, as one of our errors."""
    where = path or "/"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(error.strerror or "no space left", where=where, todo="free some space and try again")
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return UnsafeEntry("its parent is not a directory of the tree", where=where)
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.EMLINK):
            return Invalid(f"this file system cannot hold it: {error.strerror}", where=where)
        return Unavailable(f"cannot be written: {error.strerror or error}", where=where)
    return Corrupt(f"cannot be a file's metadata: {error}", where=where)


@contextmanager
def typed_errors(where: str) -> Iterator[None]:
    """Turn the system's errors in the block into ours; `where` says what was being written."""
    try:
        yield
    except OSError as error:
        raise typed(error, where) from error
