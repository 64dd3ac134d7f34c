"""The changes that the demo makes to a tree, and what the tree must look like afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from shipway.errors import Invalid
from shipway.trees.compare import Look
from shipway.trees.entry import parent_of

ADDED = "shipway-demo"
"""The directory that the second layer adds."""
NEEDED_FILES = 4
READABLE = (".py", ".c", ".h", ".go", ".rs", ".js", ".txt", ".md")
"""Files that a person may know are chosen if there are any."""
SMALL = 20
"""A directory with at most so many entries may go."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which paths of a tree are used for what."""

    sample: str
    """The file that is taken out of the remote ref: of median size."""
    edited: str
    """The file that B changes: larger than nine of ten others."""
    deleted: str
    removed: str | None
    """A small directory that is removed, if there is one."""
    chmodded: str


def plan_changes(source: dict[str, Look]) -> Plan:
    """Choose paths; equal trees give equal plans. `Invalid` if there are too few files."""
    files = [path for path, one in source.items() if one.type == "file" and one.size and len(one.names) == 1]
    readable = [path for path in files if path.endswith(READABLE)]
    files = readable if len(readable) >= NEEDED_FILES else files
    files.sort(key=lambda path: (source[path].size, path))
    if len(files) < NEEDED_FILES:
        raise Invalid(f"has {len(files)} non-empty files, and the demo needs {NEEDED_FILES}", where="--tree")
    if ADDED in source:
        raise Invalid(f"has a /{ADDED} already", where="--tree")
    count = len(files)
    chosen = (files[count // 2], files[count * 9 // 10], files[0], files[count // 4])
    sample, edited, deleted, chmodded = chosen if len(set(chosen)) == len(chosen) else tuple(files[:4])
    return Plan(sample, edited, deleted, _small_directory(source, (sample, edited, deleted, chmodded)), chmodded)


def _small_directory(source: dict[str, Look], keep: Iterable[str]) -> str | None:
    kept = {above for path in keep for above in _above(path)}
    sizes: dict[str, int] = {path: 0 for path, one in source.items() if one.type == "directory" and path not in kept}
    for path in source:
        for above in _above(path):
            if above in sizes:
                sizes[above] += 1
    linked = {parent_of(path) for path, one in source.items() if len(one.names) > 1}
    return next((path for path in sorted(sizes) if 0 < sizes[path] <= SMALL and not _covers(path, linked)), None)


def _above(path: str) -> Iterator[str]:
    while path:
        path = parent_of(path)
        yield path


def _covers(directory: str, paths: set[str]) -> bool:
    return any(path == directory or path.startswith(directory + "/") for path in paths)


def apply(plan: Plan, root: Path) -> None:
    """Make the second layer's changes in the tree at `root`: one of each kind."""
    added = root / ADDED
    added.mkdir()
    (added / "notes.txt").write_text("Added by the demo.\n" * 40)
    os.link(added / "notes.txt", added / "hard-link")
    (added / "symlink").symlink_to("notes.txt")
    (added / "empty").touch()
    (added / "tool").write_bytes(b"#!/bin/sh\nexit 0\n")
    (added / "tool").chmod(0o4755)
    os.mkfifo(added / "fifo", 0o640)
    with open(added / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(5 << 20)
        file.write(b"between two holes")
    with suppress(OSError):  # not every file system has them; then there is one thing less to compare
        os.setxattr(added / "notes.txt", "user.note", b"kept \0 whole")
    for path, _, names in os.walk(added, topdown=False):
        for name in names:
            os.utime(os.path.join(path, name), ns=(0, 1_234_567_890_123_456_789), follow_symlinks=False)
    (root / plan.deleted).unlink()
    if plan.removed is not None:
        shutil.rmtree(root / plan.removed)
    chmodded = root / plan.chmodded
    chmodded.chmod(0o600)


def expect(plan: Plan, source: dict[str, Look], live: dict[str, Look]) -> dict[str, Look]:
    """Return what the tree must look like after `apply`.

    Everything that was not touched as it is in `source`, everything that was as `live`, the
    directory that was written to, shows it.
    """
    expected = {path: one for path, one in source.items() if not _is_removed(plan, path)}
    expected[plan.chmodded] = replace(expected[plan.chmodded], mode=0o600)
    expected |= {path: one for path, one in live.items() if path == ADDED or path.startswith(ADDED + "/")}
    touched = {"", parent_of(plan.deleted), parent_of(plan.removed or "")}
    for path in touched:  # their mtimes are new
        expected[path] = replace(expected[path], mtime_ns=live[path].mtime_ns)
    return expected


def _is_removed(plan: Plan, path: str) -> bool:
    gone = plan.removed
    return path == plan.deleted or (gone is not None and (path == gone or path.startswith(gone + "/")))


def edit(path: Path) -> None:
    """Append a line to the file at `path`."""
    mode = path.stat().st_mode & 0o7777
    path.chmod(mode | 0o200)
    with open(path, "ab") as file:
        file.write(b"\n# changed by worker B\n")
    path.chmod(mode)
