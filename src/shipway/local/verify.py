"""Verify: every byte of a store against its digest, every row against what is there.

What can be repaired is: a damaged blob is forgotten (it can be packed or pulled again), a snapshot is made
again of its layer's blob. If there is none that is sound, its record goes, with all that stands on it.
It may run while others use the store: what is looked at is held meanwhile, and what
is in use is not taken away from anybody.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial

from shipway.errors import ShipwayError
from shipway.local.findings import Findings, proves_damage
from shipway.local.rows import Record
from shipway.local.standing import from_below
from shipway.local.store import PIECE, Store
from shipway.local.verify_layers import Damage, verify_layer
from shipway.local.verify_rows import (
    drop,
    verify_database,
    verify_leases,
    verify_leftovers,
    verify_manifests,
    verify_rows,
)
from shipway.progress import Progress, ProgressCallback
from shipway.refs import Finding

_BLOBS = "SELECT digest, size, CASE WHEN packed THEN diff_id END FROM blobs ORDER BY digest"


def verify(store: Store, *, repair: bool = False, progress: ProgressCallback | None = None) -> list[Finding]:
    """Return what is wrong with a store, in the order in which it was found; with `repair`, repair what can be."""
    findings = Findings(repair=repair)
    with store.leases.locked("verify"):
        verify_database(store, findings)
        verify_leases(store, findings)
        verify_rows(store, findings)
        damaged = _verify_blobs(store, findings, progress)
        verify_manifests(store, findings)
        _verify_records(store, findings, damaged, progress)
        verify_leftovers(store, findings)
    return findings.found


def _verify_blobs(store: Store, findings: Findings, progress: ProgressCallback | None) -> Damage:
    """Check every blob; return which are damaged."""
    ((total,),) = store.database.read("SELECT coalesce(sum(size), 0) FROM blobs")
    damaged = Damage(set(), set())
    done = 0
    if progress is not None:
        progress(Progress("verify blobs", "", 0, total))
    for digest, size, packed_diff_id in store.database.listed(_BLOBS):
        what, seen = _look_at_blob(store, digest, size)
        if what and store.blobs.get(digest) is not None:  # else somebody pruned it meanwhile
            damaged.digests.add(digest)
            if packed_diff_id is not None:
                damaged.packed.add(packed_diff_id)
            findings.add(
                "blob",
                digest,
                what,
                "it was dropped; it can be packed or pulled again",
                partial(store.blobs.drop_damaged, digest, seen),
            )
        done += size
        if progress is not None:
            progress(Progress("verify blobs", "", done, total))
    return damaged


def _look_at_blob(store: Store, digest: str, size: int) -> tuple[str, os.stat_result | None]:
    """Return what is wrong with a blob ("" for nothing), and the file that was looked at."""
    found = hashlib.sha256()
    try:
        with open(store.blobs.path(digest), "rb", buffering=0) as file:
            seen = os.fstat(file.fileno())
            if seen.st_size != size:
                return f"has {seen.st_size} bytes instead of {size}", seen
            while piece := file.read(PIECE):
                found.update(piece)
    except FileNotFoundError:
        return "its file is missing", None
    except OSError as error:
        if not proves_damage(error):
            raise
        return f"cannot be read: {error.strerror}", store.blobs.path(digest).stat()
    actual = "sha256:" + found.hexdigest()
    return ("" if actual == digest else f"its bytes hash to {actual}"), seen


def _verify_records(store: Store, findings: Findings, damaged: Damage, progress: ProgressCallback | None) -> None:
    """Check the snapshots of all records, parents before what stands on them."""
    number = 0

    def look(record_id: str, sound: bool, count: int) -> bool:
        nonlocal number
        if progress is not None and not number:
            progress(Progress("verify snapshots", "", 0, count, "objects"))
        before = len(findings.found)
        record = store.records.find(record_id) if sound else None
        if record is not None:
            _verify_record(store, findings, record, damaged)
        number += 1
        if progress is not None:
            progress(Progress("verify snapshots", "", number, count, "objects"))
        return sound and all(one.repaired for one in findings.found[before:])

    circle = from_below(store.database, look)
    if circle:
        findings.add("row", "parents", f"records stand on each other: {', '.join(circle)}")


def _verify_record(store: Store, findings: Findings, record: Record, damaged: Damage) -> None:
    if record.mutable or record.twin is not None:
        # It may be changed any time, so there is no digest: only whether it is there.
        missing = record.snapshot is None or not store.has_snapshot(record.snapshot)
        if missing and store.records.find(record.id) == record:
            drop(store, findings, record.id, "its snapshot is missing")
        return
    try:
        store.records.hold_immutable(record.id)
    except ShipwayError:
        return  # it was dropped, or somebody removed it
    pinned = True
    try:
        what = verify_layer(store, findings, store.records.get(record.id), damaged)
        store.holds.let_go(record.id)
        pinned = False
        if what:
            drop(store, findings, record.id, what)
    finally:
        if pinned:
            store.holds.let_go(record.id)
