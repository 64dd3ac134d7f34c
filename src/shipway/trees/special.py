"""Making what is neither a regular file nor a directory."""

from __future__ import annotations

import os
import stat

from shipway.errors import Corrupt
from shipway.trees.entry import Entry


def make_special(entry: Entry, dir_fd: int, name: str) -> None:
    """Make a symlink, fifo or device as `name` in an open directory, readable by its owner only for now.

    Raises `Corrupt` for a symlink without a target, and the `OSError` of the call.
    """
    match entry.kind:
        case "symlink":
            if not entry.link:
                raise Corrupt("a symlink without a target", where=entry.path)
            os.symlink(entry.link, name, dir_fd=dir_fd)
        case "fifo":
            os.mkfifo(name, 0o600, dir_fd=dir_fd)
        case "char":
            os.mknod(name, 0o600 | stat.S_IFCHR, os.makedev(*entry.dev), dir_fd=dir_fd)
        case "block":
            os.mknod(name, 0o600 | stat.S_IFBLK, os.makedev(*entry.dev), dir_fd=dir_fd)
        case kind:
            raise Corrupt(f"a kind of entry that no tree has: {kind}", where=entry.path)
