"""The rows of the database that contradict each other, and what the dead left: leases, locks, unfinished files."""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

from shipway import oci
from shipway.errors import Locked
from shipway.local.blobs import disk_errors
from shipway.local.broken import unknown
from shipway.local.findings import Findings
from shipway.local.records import SNAPSHOTS
from shipway.local.rows import Record, delete
from shipway.local.store import Store
from shipway.trees.removal import remove_tree


class _Rule(NamedTuple):
    """Rows that cannot be: `condition` selects them, `repair` is the statement that it completes."""

    table: str
    name: str
    condition: str
    what: str
    repair: str
    how: str = "the row was removed"


_HELD = (
    "SELECT record FROM holds WHERE instance = ?1 UNION ALL"
    " SELECT 'snapshot ' || snapshot FROM pending WHERE instance = ?1"
)
_NO_RECORD = "NOT IN (SELECT id FROM records)"
_RULES = (
    _Rule("parents", "record", f"record {_NO_RECORD}", "parent of a record that is gone", "DELETE FROM parents"),
    _Rule(
        "records",
        "id",
        f"twin IS NOT NULL AND twin {_NO_RECORD}",
        "its twin is gone",
        "UPDATE records SET twin = NULL",
        "it stands by itself",
    ),
    _Rule(
        "records",
        "id",
        "twin IS NOT NULL AND NOT EXISTS (SELECT 1 FROM records AS other"
        " WHERE other.id = records.twin AND other.twin = records.id AND other.mutable != records.mutable)",
        "its twin is not its twin",
        "UPDATE records SET twin = NULL",
        "it stands by itself",
    ),
    _Rule(
        "holds", "record", f"record {_NO_RECORD} OR count <= 0", "hold on a record that is gone", "DELETE FROM holds"
    ),
    _Rule("mounts", "target", f"record {_NO_RECORD}", "mount of a record that is gone", "DELETE FROM mounts"),
    _Rule("cache_mounts", "name", f"record {_NO_RECORD}", "its record is gone", "DELETE FROM cache_mounts"),
    _Rule("contents", "record", f"record {_NO_RECORD}", "its record is gone", "DELETE FROM contents"),
    _Rule("reports", "record", f"record {_NO_RECORD}", "its record is gone", "DELETE FROM reports"),
    _Rule(
        "tags",
        "name",
        f"CASE WHEN record IS NULL THEN manifest IS NULL ELSE record {_NO_RECORD} END",
        "names nothing",
        "DELETE FROM tags",
    ),
    _Rule(
        "manifests",
        "digest",
        f"record IS NOT NULL AND record {_NO_RECORD}",
        "of a record that is gone",
        "DELETE FROM manifests",
    ),
)

_MANIFEST_RULES = (
    _Rule(
        "manifest_blobs",
        "manifest",
        "manifest NOT IN (SELECT digest FROM manifests)",
        "of a manifest that is gone",
        "DELETE FROM manifest_blobs",
    ),
    _Rule(
        "tags",
        "name",
        "record IS NULL AND manifest IS NOT NULL AND manifest NOT IN (SELECT digest FROM manifests)",
        "names a manifest that is gone",
        "DELETE FROM tags",
    ),
    _Rule(
        "tags",
        "name",
        "manifest IS NOT NULL AND manifest NOT IN (SELECT digest FROM manifests)",
        "names a manifest that is gone",
        "UPDATE tags SET manifest = NULL",
        "it names its record, whose manifest is made again",
    ),
)


def verify_database(store: Store, findings: Findings) -> None:
    """Check the database file itself."""
    for (line,) in store.database.read("PRAGMA integrity_check(20)"):
        if line != "ok":
            findings.add("database", store.database.path.name, line)


def verify_rows(store: Store, findings: Findings) -> None:
    """Check that rows only speak of what there is."""
    for record_id, parent in store.database.read(f"SELECT record, parent FROM parents WHERE parent {_NO_RECORD}"):  # noqa: S608  constant
        if store.records.find(record_id) is not None:
            drop(store, findings, record_id, f"its parent {parent} is gone", kind="row")
    _apply(store, findings, _RULES)


def verify_manifests(store: Store, findings: Findings) -> None:
    """Check the manifests, after the blobs."""
    for (digest,) in store.database.listed("SELECT digest FROM manifests"):
        found = store.database.read("SELECT data FROM manifests WHERE digest = ?", digest)
        if any(oci.sha256(data) != digest for (data,) in found):
            findings.add(
                "row",
                digest,
                "the manifest has another digest",
                "it was removed",
                partial(store.tags.delete_manifest, digest),
            )
    _apply(store, findings, _MANIFEST_RULES)


def _apply(store: Store, findings: Findings, rules: tuple[_Rule, ...]) -> None:
    for rule in rules:
        with store.database.write() as db:  # one transaction: what is removed is what was found
            rows = db.execute(f"SELECT {rule.name} FROM {rule.table} WHERE {rule.condition}").fetchall()  # noqa: S608  constant
            if rows and findings.repair:
                db.execute(f"{rule.repair} WHERE {rule.condition}")
        for (name,) in rows:
            findings.add("row", f"{rule.table}: {name}", rule.what, rule.how, lambda: None)


def drop(store: Store, findings: Findings, record_id: str, what: str, *, kind: str = "snapshot") -> None:
    """Note a record that cannot be repaired, and remove it with all that stands on it."""

    def mend() -> None:
        dropped.extend(_drop_with_children(store, record_id))

    dropped: list[Record] = []
    if findings.add(kind, record_id, what, "the record was dropped", mend):
        for record in dropped:
            if record.id != record_id:
                findings.add("record", record.id, f"stood on {record_id}", "the record was dropped", lambda: None)
        store.drop_snapshots([key for record in dropped for key in record.snapshots])


def _drop_with_children(store: Store, record_id: str) -> list[Record]:
    """Delete a record, its twin, and all that stands on them; return them. `Locked` if one is held."""
    with store.database.write() as db:
        rows = db.execute(
            "WITH RECURSIVE doomed (id) AS (SELECT ? UNION SELECT parents.record FROM parents JOIN doomed"
            " ON parents.parent = doomed.id UNION SELECT records.twin FROM records JOIN doomed"
            " ON records.id = doomed.id WHERE records.twin IS NOT NULL) SELECT id FROM doomed",
            (record_id,),
        ).fetchall()
        doomed = [record for (one,) in rows if (record := store.records.find(one)) is not None]
        for record in doomed:
            if store.holds.is_held(record.id):
                raise Locked("it is in use", where=record.id, todo="release it first")
        for record in doomed:
            delete(db, record.id)
    return doomed


def verify_leases(store: Store, findings: Findings) -> None:
    """Check that nobody dead holds, makes, mounts or locks anything."""
    instances = store.database.read("SELECT instance FROM holds UNION SELECT instance FROM pending")
    for instance in [one for (one,) in instances if not store.leases.is_alive(one)]:
        for (what,) in store.database.read(_HELD, instance):
            findings.add("lease", instance, f"died holding {what}", "it was taken back", store.reclaim)
    for target in store.holds.stale_mounts():
        findings.add("lease", target, "is not mounted any more", "it was taken back", store.reclaim)
    for instance in store.dead_instances(bury=findings.repair):
        findings.add("lease", f"locks/{instance}", "its process is dead", "it was removed", lambda: None)
    for name in store.leases.stale_locks(remove=findings.repair):
        findings.add("lease", f"locks/{name}", "nobody holds this lock", "it was removed", lambda: None)


def verify_leftovers(store: Store, findings: Findings) -> None:
    """Check that there is nothing that belongs to nobody."""
    for path in store.driver.leftovers(remove=findings.repair):
        findings.add("leftover", path, "belongs to nobody", "it was removed", lambda: None)
    with os.scandir(store.root / "snapshots") as items:
        strange = unknown(store.database, (item.name for item in items), SNAPSHOTS)
    for name in strange:
        findings.add(
            "leftover",
            f"snapshots/{name}",
            "no record has this snapshot",
            "it was removed",
            partial(_remove, store, "snapshots", name),
        )
    for name in store.blobs.orphans():
        findings.add(
            "leftover",
            f"blobs/sha256/{name}",
            "no blob of this store",
            "it was removed",
            partial(store.blobs.remove_orphan, name),
        )
    alive, _ = store.leases.others()
    if not alive and not store.repaired:  # else what lies there may be what somebody is making, this process too
        for name in sorted(os.listdir(store.root / "ingest")):
            findings.add("leftover", f"ingest/{name}", "was never finished", "it was removed", store.sweep)
        for name in store.kept.strays():
            findings.add("leftover", f"kept/{name}", "nobody will find it", "it was removed", store.kept.sweep)


def _remove(store: Store, directory: str, name: str) -> None:
    with disk_errors(f"{directory}/{name}"):
        fd = os.open(store.root / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, name)
        finally:
            os.close(fd)
