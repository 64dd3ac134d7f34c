"""The store's SQLite database: schema, connections, transactions.

One connection a process for nearly all, used under a lock: transactions here take tens of
microseconds, and everything slow happens outside them. Between processes WAL
mode, `BEGIN IMMEDIATE` and a busy timeout keep order. `synchronous=NORMAL`
cannot corrupt the file; after a power cut the last transactions may be missing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from shipway.errors import Corrupt, NoSpace, ShipwayError, Unavailable

BUSY_SECONDS = 60.0

SCHEMA = """
-- One row a tree. Until it is finalized a committed tree has two: a mutable and an immutable
-- one over the same snapshot, each the other's twin.
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,           -- layer, merge or diff: see local/layering.py
    mutable INTEGER NOT NULL,
    twin TEXT,
    snapshot TEXT,                -- of its layer; NULL for a merge, and for a diff that nobody looked into yet
    exact TEXT,                   -- a snapshot of just what the layer changes, once known; empty: it changes nothing
    diff_id TEXT,                 -- of its layer, once known
    chain_id TEXT,                -- of its layer and all below, once known
    policy TEXT NOT NULL,
    record_type TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,     -- nanoseconds since 1970, as are all times here
    last_used INTEGER,
    usage_count INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_chain ON records (chain_id) WHERE chain_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_diff ON records (diff_id) WHERE diff_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_twin ON records (twin) WHERE twin IS NOT NULL;

CREATE TABLE IF NOT EXISTS parents (
    record TEXT NOT NULL,
    position INTEGER NOT NULL,
    parent TEXT NOT NULL,
    PRIMARY KEY (record, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parents_parent ON parents (parent);

-- Who holds what; a row of an instance that no longer lives counts for nothing.
CREATE TABLE IF NOT EXISTS holds (
    record TEXT NOT NULL,
    instance TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (record, instance)
) WITHOUT ROWID;

-- Mounts that outlive the process that made them. They hold their record while they exist.
CREATE TABLE IF NOT EXISTS mounts (
    target TEXT PRIMARY KEY,
    record TEXT NOT NULL
) WITHOUT ROWID;

-- Snapshots that are being made, and by whom.
CREATE TABLE IF NOT EXISTS pending (
    snapshot TEXT PRIMARY KEY,
    instance TEXT NOT NULL
) WITHOUT ROWID;

-- What snapshots were found to take on disk; `stamp` changes when that may have: see local/sizes.py.
CREATE TABLE IF NOT EXISTS sizes (
    snapshot TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;

-- What layers change, with the digests that content checksums are made of, in blocks: see local/changes.py.
CREATE TABLE IF NOT EXISTS changes (
    record TEXT NOT NULL,
    first BLOB NOT NULL,          -- the sort key of the first path in the block; empty for the first block
    data BLOB NOT NULL,
    PRIMARY KEY (record, first)
);

-- Records that content checksums of remote layers are made of: see local/checksums.py.
CREATE TABLE IF NOT EXISTS checksums (
    layer TEXT PRIMARY KEY,       -- the digest of the layer's table of contents, a slash, and which part of its entries
    record TEXT,                  -- always NULL
    data BLOB NOT NULL,
    used INTEGER NOT NULL
);

-- What checksums of a record's tree came to: see local/answers.py.
CREATE TABLE IF NOT EXISTS answers (
    record TEXT NOT NULL,
    query TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (record, query)
) WITHOUT ROWID;

-- The state of a cache mount: the record that its next holder goes on with. Private ones may have several.
CREATE TABLE IF NOT EXISTS cache_mounts (
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (name, record)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cache_mounts_record ON cache_mounts (record);

CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    diff_id TEXT,                 -- set for layers
    annotations TEXT NOT NULL,
    packed INTEGER NOT NULL,      -- we made it, of a snapshot, and can make it again
    created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_diff ON blobs (diff_id) WHERE diff_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS manifests (
    digest TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    data BLOB NOT NULL,
    record TEXT,                  -- the record whose tree it describes
    subject TEXT,
    created INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS manifests_record ON manifests (record) WHERE record IS NOT NULL;
CREATE INDEX IF NOT EXISTS manifests_subject ON manifests (subject) WHERE subject IS NOT NULL;

CREATE TABLE IF NOT EXISTS manifest_blobs (
    manifest TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (manifest, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS manifest_blobs_digest ON manifest_blobs (digest);

-- Names of images. A cache key is the tag `oci.key_tag(key)` of the repository `shipway`.
CREATE TABLE IF NOT EXISTS tags (
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT,
    manifest TEXT,
    key BLOB,
    updated INTEGER NOT NULL,
    PRIMARY KEY (repository, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_record ON tags (record) WHERE record IS NOT NULL;
CREATE INDEX IF NOT EXISTS tags_manifest ON tags (manifest) WHERE manifest IS NOT NULL;

-- Where contents are in the snapshots of this store, by digest: see local/contents.py.
CREATE TABLE IF NOT EXISTS contents (
    record TEXT PRIMARY KEY,
    digests BLOB NOT NULL,        -- the first 8 bytes of each
    places BLOB NOT NULL
);

-- Files in `kept/`, of pieces of remote layers that were fetched, by digest: see local/kept.py.
CREATE TABLE IF NOT EXISTS kept (
    name TEXT PRIMARY KEY,
    digests BLOB NOT NULL,        -- the first 8 bytes of each
    places BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    used INTEGER NOT NULL
);

-- Indexes of remote layers, and what was read for want of one: see local/indexes.py.
CREATE TABLE IF NOT EXISTS indexes (
    blob TEXT PRIMARY KEY,
    digest TEXT NOT NULL,         -- of the index, in `kept/`; empty for none
    spent INTEGER NOT NULL,       -- bytes
    used INTEGER NOT NULL
) WITHOUT ROWID;

-- How records were pulled, as JSON: see local/reports.py.
CREATE TABLE IF NOT EXISTS reports (record TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;

-- Where blobs were seen: see local/places.py.
CREATE TABLE IF NOT EXISTS places (
    digest TEXT NOT NULL,
    place TEXT NOT NULL,          -- the name of a remote
    diff_id TEXT,                 -- set for layers
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (digest, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_diff ON places (diff_id) WHERE diff_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS places_seen ON places (seen);
-- Blobs that were gone when they were wanted, by the image that names them and where it is: see local/absences.py.
CREATE TABLE IF NOT EXISTS absences (
    place TEXT NOT NULL,
    image TEXT NOT NULL,
    blob TEXT NOT NULL,
    size INTEGER NOT NULL,
    noticed INTEGER NOT NULL,
    PRIMARY KEY (place, image, blob)
) WITHOUT ROWID;

-- Uploads that were begun and are not done: see local/uploads.py.
CREATE TABLE IF NOT EXISTS uploads (
    place TEXT NOT NULL,          -- the name of a remote
    digest TEXT NOT NULL,
    location TEXT NOT NULL,       -- where to go on; may carry secrets
    instance TEXT NOT NULL,       -- who works at it; empty for nobody
    noted INTEGER NOT NULL,
    PRIMARY KEY (place, digest)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

SCHEMA_VERSION = 5
PAGE = 1000
"""Rows that are in memory at a time, of lists that may be long."""


class Connection:
    """A connection to the file, used by one thread at a time. `read` runs one query, `transaction` opens one."""

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        except sqlite3.Error as error:
            raise self._typed(error) from error

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of one query."""
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._typed(error) from error

    def each(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of one query, for which the connection is closed to others: take them all at once."""
        try:
            with self._lock:
                yield from self._connection.execute(query, values)
        except sqlite3.Error as error:
            raise self._typed(error) from error

    def pages(self, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query, a page at a time; between pages the connection is free.

        It is to order them by a positive integer, their first column, and to take two values: what that is above,
        and a limit.
        """
        last = 0
        while rows := self.read(query, last, PAGE):
            last = rows[-1][0]
            yield rows

    @contextmanager
    def transaction(self, begin: str = "BEGIN") -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction; an exception rolls back. Joins one already open."""
        try:
            with self._lock:
                outermost = not self._connection.in_transaction
                if outermost:
                    self._connection.execute(begin)
                try:
                    yield self._connection
                    if outermost:
                        self._connection.execute("COMMIT")
                except BaseException:
                    if outermost and self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise self._typed(error) from error

    def _typed(self, error: sqlite3.Error) -> ShipwayError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        where = str(self.path)
        if code == sqlite3.SQLITE_FULL:
            return NoSpace("no space left for the database", where=where, todo="free some, or `shipway prune`")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return Corrupt(f"the database is damaged: {error}", where=where)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Unavailable(f"the database was busy for {BUSY_SECONDS:.0f} seconds", where=where, todo="try again")
        return Unavailable(f"the database cannot be used: {error}", where=where)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


class Database(Connection):
    """The store's own connection. `write` opens a transaction that nobody else writes in."""

    def __init__(self, path: Path) -> None:
        """Open or create the database; `Corrupt` if the file is not one, or of a newer version."""
        super().__init__(path)
        try:
            self.read("PRAGMA journal_mode=WAL")
            self.read("PRAGMA synchronous=NORMAL")
            self._create()
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        with self.write() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise Corrupt(
                    f"the store has format {version}, this Shipway reads up to {SCHEMA_VERSION}",
                    where=str(self.path),
                    todo="upgrade Shipway",
                )
            # Newer formats have more tables, and 5 has blocks in `contents`; rows of before are read too.
            if version < SCHEMA_VERSION:
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute("DELETE FROM checksums WHERE record IS NOT NULL")  # which format 4 has in `changes`
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        """Return a block inside `BEGIN IMMEDIATE`, which yields the connection; an exception rolls back."""
        return self.transaction("BEGIN IMMEDIATE")

    def listed(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, in its order, as they were at one moment; a page of them is in memory.

        `NoSpace` if there is none for the file with the others.
        """
        with closing(self.aside()) as tables:
            with tables.transaction() as db:
                db.execute(f"CREATE TEMP TABLE listed AS {query}")
            for page in tables.pages("SELECT rowid, * FROM listed WHERE rowid > ? ORDER BY rowid LIMIT ?"):
                for row in page:
                    yield row[1:]

    def aside(self, *, in_memory: bool = False) -> Connection:
        """Return a connection of its own, for temporary tables of what is in the database; to be closed.

        The tables are in a file from some megabytes on, unless they are to stay `in_memory`.
        """
        connection = Connection(self.path)
        if in_memory:
            connection.read("PRAGMA temp_store=MEMORY")
        return connection
