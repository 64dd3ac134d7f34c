"""One digest of a whole tree on disk, made without Shipway: what says that a result is right."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.model import WrongResult

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Keeps:
    """What of a tree a format keeps; the rest is not compared."""

    mtime: int = 1
    """The unit of mtimes in nanoseconds; 0 if they are not kept."""
    owner: bool = True


ALL = Keeps()
WHOLE_SECONDS = Keeps(mtime=SECOND)
NO_TIMES = Keeps(mtime=0)


def fingerprint(tree: Path, keeps: Keeps = ALL) -> str:
    """Return a digest of names, kinds, modes, owners, sizes, link targets, contents and mtimes of all below `tree`.

    The directory itself does not count, nor do mtimes of directories: not all peers keep them.
    """
    total = hashlib.sha256()
    for line in sorted(_lines(str(tree), "", keeps)):
        total.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()


def same(expected: str, tree: Path, keeps: Keeps = ALL) -> None:
    """Raise `WrongResult` unless the fingerprint of `tree` is `expected`."""
    if fingerprint(tree, keeps) != expected:
        raise WrongResult(f"{tree} is not the tree it should be")


def _lines(directory: str, inside: str, keeps: Keeps) -> Iterator[str]:
    for item in os.scandir(directory):
        found = item.stat(follow_symlinks=False)
        path = f"{inside}/{item.name}"
        line = f"{path} {found.st_mode:o}"
        if keeps.owner:
            line += f" {found.st_uid}:{found.st_gid}"
        if stat.S_ISREG(found.st_mode):
            with open(item.path, "rb") as file:
                line += f" {found.st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"
            line += f" {found.st_mtime_ns // keeps.mtime}" if keeps.mtime else ""
        elif stat.S_ISLNK(found.st_mode):
            line += f" -> {os.readlink(item.path)}"
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            line += f" {found.st_rdev}"
        yield line
        if stat.S_ISDIR(found.st_mode):
            yield from _lines(item.path, path, keeps)
