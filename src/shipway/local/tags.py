"""Names and manifests: what the store looks like as a registry.

A cache key is a tag of the repository `shipway` whose name is derived from the key
(`oci.key_tag`), so that keys can be asked for in any registry. A tag names
a record, a manifest, or both: a record's manifest is made when it is first asked for.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from shipway.errors import Conflict, NotFound
from shipway.local.database import Database
from shipway.oci import DEFAULT_REPOSITORY, Descriptor, key_tag


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `tags`."""

    repository: str
    name: str
    record: str | None
    manifest: str | None
    key: bytes | None
    updated: int


_PRESENT = (
    "SELECT 1 FROM tags WHERE repository = ? AND name = ?"
    " AND record IS NOT ? AND (manifest IS NOT NULL OR record IN (SELECT id FROM records))"
)
_TAG_COLUMNS = "repository, name, record, manifest, key, updated"
_KEYS = f"SELECT {_TAG_COLUMNS} FROM tags WHERE key IS NOT NULL"  # noqa: S608  constant columns
_NAMES = "SELECT name FROM tags WHERE repository = ?1 AND name > ?2"
_IDS = "SELECT id FROM records WHERE NOT mutable AND id > ?2"


class Tags:
    """Tags and manifests of one store."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def get(self, repository: str, name: str) -> Tag | None:
        """Return a tag, or None."""
        rows = self._database.read(
            f"SELECT {_TAG_COLUMNS} FROM tags WHERE repository = ? AND name = ?",  # noqa: S608  constant columns
            repository,
            name,
        )
        return _tag(rows[0]) if rows else None

    def get_key(self, key: bytes) -> Tag | None:
        """Return the tag of a cache key, or None."""
        return self.get(DEFAULT_REPOSITORY, key_tag(key))

    def put(
        self,
        repository: str,
        name: str,
        *,
        record: str | None = None,
        manifest: str | None = None,
        key: bytes | None = None,
        only_if_absent: bool = False,
    ) -> None:
        """Make a tag name this and nothing else. The last one to put wins, or with `only_if_absent` the first.

        Raises `Conflict` for the others, unless they put the same. A tag whose record is gone is absent.
        """
        with self._database.write() as db:
            if only_if_absent and db.execute(_PRESENT, (repository, name, record)).fetchone():
                raise Conflict("somebody else wrote it first", where=f"{repository}:{name}", todo="look it up")
            db.execute(
                "INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (repository, name) DO UPDATE SET"
                " record = excluded.record, manifest = excluded.manifest,"
                " key = coalesce(excluded.key, key), updated = excluded.updated",
                (repository, name, record, manifest, key, time.time_ns()),
            )

    def put_key(self, key: bytes, record: str, *, only_if_absent: bool = False) -> None:
        """Make a cache key name a record; see `put`."""
        self.put(DEFAULT_REPOSITORY, key_tag(key), record=record, key=key, only_if_absent=only_if_absent)

    def delete(self, repository: str, name: str) -> bool:
        """Remove a tag; returns whether there was one."""
        with self._database.write() as db:
            return db.execute("DELETE FROM tags WHERE repository = ? AND name = ?", (repository, name)).rowcount > 0

    def with_keys(self) -> Iterator[Tag]:
        """Yield the tags that are cache keys put here, in the order of keys, as they were at one moment.

        A page of them is in memory. `NoSpace` if there is none for the file with the others.
        """
        return map(_tag, self._database.listed(f"{_KEYS} ORDER BY key"))

    def with_keys_of(self, record: str) -> list[Tag]:
        """Return those that name a record."""
        return [_tag(row) for row in self._database.read(f"{_KEYS} AND record = ? ORDER BY key", record)]

    def names(self, repository: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` tags of a repository that come after a name, in order."""
        rows = self._database.read(f"{_NAMES} ORDER BY name LIMIT ?3", repository, after, limit)
        return [name for (name,) in rows]

    def names_and_records(self, repository: str, after: str, limit: int) -> list[str]:
        """Return the same where the ids of immutable records are tags too."""
        rows = self._database.read(f"{_NAMES} UNION {_IDS} ORDER BY name LIMIT ?3", repository, after, limit)
        return [name for (name,) in rows]

    def repositories(self) -> list[str]:
        """Return the names of all repositories that have a tag; `shipway` always is one."""
        rows = self._database.read("SELECT DISTINCT repository FROM tags")
        return sorted({DEFAULT_REPOSITORY, *(row[0] for row in rows)})

    # Manifests

    def put_manifest(
        self,
        descriptor: Descriptor,
        data: bytes,
        refers_to: Iterable[str],
        *,
        record: str | None = None,
        subject: str | None = None,
    ) -> None:
        """Keep a manifest; `refers_to` are the digests that must stay as long as it does."""
        with self._database.write() as db:
            db.execute(
                "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET"
                " record = coalesce(excluded.record, record), created = excluded.created",
                (descriptor.digest, descriptor.media_type, data, record, subject, time.time_ns()),
            )
            db.executemany(
                "INSERT OR IGNORE INTO manifest_blobs VALUES (?, ?)",
                [(descriptor.digest, digest) for digest in refers_to],
            )

    def manifest(self, digest: str) -> tuple[Descriptor, bytes]:
        """Return a manifest that is here; `NotFound` if it is not."""
        rows = self._database.read("SELECT media_type, data FROM manifests WHERE digest = ?", digest)
        if not rows:
            raise NotFound("no such manifest in this store", where=digest)
        media_type, data = rows[0]
        return Descriptor(media_type=media_type, digest=digest, size=len(data)), data

    def manifest_of(self, record: str) -> tuple[Descriptor, bytes] | None:
        """Return the newest manifest that describes a record's tree, or None."""
        rows = self._database.read(
            "SELECT digest, media_type, data FROM manifests WHERE record = ? ORDER BY created DESC LIMIT 1", record
        )
        if not rows:
            return None
        digest, media_type, data = rows[0]
        return Descriptor(media_type=media_type, digest=digest, size=len(data)), data

    def delete_manifest(self, digest: str) -> bool:
        """Remove a manifest and the tags that name it; returns whether it was there."""
        with self._database.write() as db:
            db.execute("DELETE FROM tags WHERE manifest = ?", (digest,))
            db.execute("DELETE FROM manifest_blobs WHERE manifest = ?", (digest,))
            return db.execute("DELETE FROM manifests WHERE digest = ?", (digest,)).rowcount > 0

    def let_go_of_blob(self, digest: str, in_use: Collection[str]) -> bool:
        """Forget the manifests that refer to a layer's blob, so that it can go; return whether it may.

        Tags that named them name their record instead, whose manifest is made when it is next asked for. It may not
        go if a record in `in_use` has the layer, nor if a manifest refers to it that is no record's or
        stands in an index: those cannot be made again.
        """
        with self._database.write() as db:
            holders = db.execute(
                "SELECT records.id FROM records JOIN blobs USING (diff_id) WHERE blobs.digest = ?", (digest,)
            )
            if any(record in in_use for (record,) in holders):
                return False
            manifests = db.execute(
                "SELECT manifests.digest, record FROM manifests JOIN manifest_blobs ON manifest = manifests.digest"
                " WHERE manifest_blobs.digest = ?",
                (digest,),
            ).fetchall()
            for manifest, record in manifests:
                listed = db.execute("SELECT 1 FROM manifest_blobs WHERE digest = ?", (manifest,)).fetchone()
                if record is None or listed is not None:
                    return False
            for manifest, record in manifests:
                db.execute("UPDATE tags SET record = ?, manifest = NULL WHERE manifest = ?", (record, manifest))
                self.delete_manifest(manifest)
        return True

    def collect(self, grace_seconds: float) -> list[str]:
        """Forget manifests that nothing names, and return the digests of blobs that nothing refers to.

        What arrived within the last `grace_seconds` is left alone: the tag or
        manifest that will refer to it may still be on its way.
        """
        before = time.time_ns() - int(grace_seconds * 1e9)
        with self._database.write() as db:
            db.execute(
                "DELETE FROM manifests WHERE record IS NULL AND subject IS NULL AND created < ?"
                " AND digest NOT IN (SELECT manifest FROM tags WHERE manifest IS NOT NULL)"
                " AND digest NOT IN (SELECT digest FROM manifest_blobs)",
                (before,),
            )
            db.execute("DELETE FROM manifest_blobs WHERE manifest NOT IN (SELECT digest FROM manifests)")
            rows = db.execute(
                "SELECT digest FROM blobs WHERE digest NOT IN (SELECT digest FROM manifest_blobs) AND"
                " CASE WHEN diff_id IS NULL THEN created < ? ELSE diff_id NOT IN"
                " (SELECT diff_id FROM records WHERE diff_id IS NOT NULL) END",
                (before,),
            ).fetchall()
        return [row[0] for row in rows]


def _tag(row: tuple[Any, ...]) -> Tag:
    return Tag(repository=row[0], name=row[1], record=row[2], manifest=row[3], key=row[4], updated=row[5])
