"""Making snapshots from entries, and looking at what a driver keeps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shipway.snapshots.contract import Chain, SnapshotDriver
from shipway.trees.copying import copy_entries
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Content, Entry, Kind
from support.trees import Seen, describe

MTIME = 1_700_000_000_000_000_007


def entry(path: str, kind: Kind = "reg", content: bytes = b"", **fields: Any) -> tuple[Entry, bytes]:
    """Return an entry with ordinary metadata, owned by us, and its content."""
    mode = {"dir": 0o755, "symlink": 0o777, "whiteout": 0, "opaque": 0}.get(kind, 0o644)
    values = {
        "mode": mode,
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "mtime_ns": MTIME,
        "size": len(content),
        **fields,
    }
    return Entry(path=path, kind=kind, **values), content


def write_layer(driver: SnapshotDriver, chain: Chain, entries: Iterable[tuple[Entry, Content]]) -> None:
    """Make a committed snapshot of these entries."""
    with driver.writer(chain) as sink:
        for one, content in entries:
            sink.add(one, content)
        sink.finish()


def import_directory(driver: SnapshotDriver, chain: Chain, source: Path) -> None:
    """Make a committed snapshot that holds all of a directory."""
    with driver.writer(chain) as sink, DirectoryTree(source) as tree:
        copy_entries(tree.entries(), tree, sink)
        sink.finish()


def copy_changes(source: SnapshotDriver, chain: Chain, to: SnapshotDriver, new_chain: Chain) -> None:
    """Make a committed snapshot of what another one changes."""
    with to.writer(new_chain) as sink, source.tree(chain) as tree:
        copy_entries(source.changes(chain), tree, sink)
        sink.finish()


def shown(driver: SnapshotDriver, chain: Chain) -> dict[str, Seen]:
    """Return the description of what a mount shows."""
    with driver.mounted(chain, readonly=True) as path:
        return describe(path)


def listing(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return path and kind of each entry."""
    return [(one.path, one.kind) for one in entries]


def leftovers(root: Path) -> list[str]:
    """Return what unfinished work left under a store's root, and where something is still mounted."""
    found = [
        str(path)
        for directory in ("ingest", "mounts")
        for path in sorted((root / directory).rglob("*"))
        if path.name != "lock" and path.parent != root / "mounts"
    ]
    mounted = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    marker = os.fspath(root).replace("\\", "\\134").replace(" ", "\\040")
    return found + [line for line in mounted.splitlines() if marker in line]
