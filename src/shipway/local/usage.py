"""Disk usage: what each tree of a store takes, and what the store takes beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shipway.local.books import Books
from shipway.local.filters import parse_filters
from shipway.local.store import Store
from shipway.refs import UsageRecord

_BLOCK = 512


def disk_usage(store: Store, filters: Iterable[str] = ()) -> Iterator[UsageRecord]:
    """Return a row for each tree in the store as it is now, oldest first; with `filters` those that one of them means.

    Of a tree that is committed but not finalized, which has two records, it is the one
    that is held; the mutable one if neither is.
    """
    matches = parse_filters(filters)
    return filter(matches, Books(store, matches.ids).rows())


def overhead(store: Store) -> int:
    """Return the bytes under the root that belong to no tree.

    That is the database, directories, blobs that are no layer of any tree (configurations), and what is unfinished.
    """
    block = os.statvfs(store.root).f_frsize
    ((others,),) = store.database.read(
        "SELECT coalesce(sum((size + ?1 - 1) / ?1 * ?1), 0) FROM blobs WHERE diff_id IS NULL"
        " OR NOT EXISTS (SELECT 1 FROM records WHERE records.diff_id = blobs.diff_id)",
        block,
    )
    return _blocks(store.root) * _BLOCK + int(others)


def _blocks(root: Path) -> int:
    """Return the blocks under a root, without snapshots, blobs, and what is mounted there."""
    counted_apart = {str(root / "snapshots"), str(root / "blobs" / "sha256")}
    total = os.lstat(root).st_blocks
    stack = [str(root)]
    while stack:
        path = stack.pop()
        try:
            items = os.scandir(path)
        except FileNotFoundError:
            continue
        with items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    if item.name.startswith("mount-") and os.path.ismount(item.path):
                        continue
                    if item.path not in counted_apart:
                        stack.append(item.path)
                try:
                    total += item.stat(follow_symlinks=False).st_blocks
                except FileNotFoundError:  # finished, or gone, while we look
                    continue
    return total
