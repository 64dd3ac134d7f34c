"""What snapshots take on disk: measured once, and again only when it may have changed.

Walking a snapshot costs a system call a file, so the answer is kept in the database with a *stamp*: the
change time of the snapshot's directory (a driver that adds a tree to it changes that), and for one that is
committed but not finalized the id of what it was committed to, which is new with every commit. What is
being written to is measured each time.

A snapshot that was made by linking to the files of another counts only what is its own, so that the sum over
a store is what `du` says of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipway.errors import NotFound
from shipway.local.database import Database
from shipway.local.rows import Own
from shipway.snapshots.contract import SnapshotDriver

_FRESH = 100_000_000
"""Nanoseconds for which a change time proves nothing: the kernel's clock for them moves in ticks."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot to measure: whether its files may be links to another's, and what its state is called.

    The state is None while it is being written to.
    """

    key: str
    linked: bool
    state: str | None


def snapshots(record: Own) -> list[Snapshot]:
    """Return a record's own snapshots."""
    found = []
    if record.snapshot:
        settled = record.twin if record.mutable else record.id if record.twin else ""
        found.append(Snapshot(record.snapshot, record.kind == "diff", settled))
    if record.exact and record.exact != record.snapshot:
        found.append(Snapshot(record.exact, linked=True, state=""))
    return found


class Sizes:
    """The sizes of one store's snapshots."""

    def __init__(self, database: Database, driver: SnapshotDriver, root: Path) -> None:
        """Ask `driver`, whose snapshots are under `root/snapshots`, for what `database` does not know."""
        self._database = database
        self._driver = driver
        self._directory = root / "snapshots"

    def of(self, owners: Iterable[Own]) -> dict[str, int]:
        """Return the bytes of every snapshot of some records: a thousand at a time, if there are many."""
        wanted = [one for owner in owners for one in snapshots(owner)]
        changed: dict[str, int] = {}
        for one in wanted:
            with suppress(FileNotFoundError):  # removed by somebody else while we look
                changed[one.key] = os.stat(self._directory / one.key).st_mtime_ns
        query = "SELECT snapshot, stamp, bytes FROM sizes WHERE snapshot IN (SELECT value FROM json_each(?))"
        rows = self._database.read(query, json.dumps(list(changed)))
        return self._measured(wanted, changed, {key: (stamp, size) for key, stamp, size in rows})

    def forget(self, keys: Iterable[str]) -> None:
        """Forget what was found of snapshots that are gone."""
        with self._database.write() as db:
            db.executemany("DELETE FROM sizes WHERE snapshot = ?", [(key,) for key in keys])

    def _measured(
        self, wanted: Iterable[Snapshot], changed: Mapping[str, int], known: Mapping[str, tuple[str, int]]
    ) -> dict[str, int]:
        sizes: dict[str, int] = {}
        new: list[tuple[str, str, int]] = []
        for one in wanted:
            if one.key not in changed:
                continue
            stamp = f"{one.linked:d} {one.state} {changed[one.key]}"
            kept = known.get(one.key)
            if one.state is not None and kept is not None and kept[0] == stamp:
                sizes[one.key] = kept[1]
                continue
            fresh = time.time_ns() - changed[one.key] < _FRESH
            try:
                sizes[one.key] = self._driver.usage(one.key, linked=one.linked)
            except NotFound:  # removed by somebody else while we look
                continue
            if one.state is not None and not fresh:
                new.append((one.key, stamp, sizes[one.key]))
        if new:
            with self._database.write() as db:
                db.executemany("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?)", new)
        return sizes
