"""A store: everything that lies under one root directory, opened.

    ROOT/shipway.db    records, holds, tags, manifests (SQLite)
    ROOT/blobs/sha256/ content-addressed blobs
    ROOT/snapshots/    trees, in the driver's own form
    ROOT/kept/         what was fetched and may be of use again; safe to delete, too
    ROOT/ingest/       what is not finished; safe to delete when nobody has the store open
    ROOT/locks/        who has it open, and who is doing what

Opening takes back what the dead left: their holds, what they were making, and
finalizations they were in the middle of.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from shipway.errors import Invalid, NotFound, ShipwayError, Unavailable
from shipway.limits import Limits
from shipway.local import layering
from shipway.local.absences import Absences
from shipway.local.blobs import Blobs, disk_errors
from shipway.local.broken import drop_broken, unknown
from shipway.local.database import Database
from shipway.local.holds import Holds
from shipway.local.indexes import Indexes
from shipway.local.kept import Kept
from shipway.local.leases import Leases
from shipway.local.places import Places
from shipway.local.records import SNAPSHOTS, Records
from shipway.local.reports import Reports
from shipway.local.rows import NewRecord, Outline, Record
from shipway.local.sizes import Sizes
from shipway.local.tags import Tags
from shipway.local.uploads import Uploads
from shipway.oci import Descriptor
from shipway.settings import RegistrySettings
from shipway.snapshots.choose import open_driver
from shipway.snapshots.contract import SnapshotDriver
from shipway.trees.content import can_clone
from shipway.trees.copying import copy_entries
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry, LocalTree
from shipway.trees.writer import remove_tree

PIECE = 1 << 20


class Store:
    """The rooms of one root directory, and what needs several of them at once."""

    def __init__(
        self,
        root: Path,
        driver: str = "auto",
        *,
        registries: Mapping[str, RegistrySettings] = MappingProxyType({}),
        repair: bool = True,
        limits: Limits | None = None,
    ) -> None:
        """Open the store at `root`, making it if there is none.

        A store keeps the driver it was made with; asking for another one is `Invalid`.
        `Unavailable` if the directory cannot be used. `registries` is how those who move its refs speak
        to each, by `host[:port]`. Without `repair` what the dead left stays as it is. `limits` are what layers
        that come from outside are held to.
        """
        self.root = root
        self.registries = registries
        self.limits = limits or Limits()
        self.repaired = repair
        self.after_commit: Callable[[], None] = lambda: None
        """Called when something was committed, imported or pulled; must return at once and raise nothing."""
        self.closed = False
        with disk_errors(root):
            for name in ("", "blobs", "blobs/sha256", "snapshots", "ingest", "kept", "locks"):
                (root / name).mkdir(mode=0o700, parents=not name, exist_ok=True)
        self.database = Database(root / "shipway.db")
        try:
            with _opening(root):
                self.leases = Leases(root / "locks")
                alone = repair and self._bury_the_dead()
            self.blobs = Blobs(root, self.database)
            self.holds = Holds(self.database, self.leases)
            self.records = Records(self.database, self.leases, self.holds)
            self.tags = Tags(self.database)
            self.kept = Kept(root, self.database)
            self.indexes = Indexes(self.database, self.kept)
            self.places = Places(self.database)
            self.reports = Reports(self.database)
            self.absences = Absences(self.database)
            self.uploads = Uploads(self.database, self.leases)
            self.driver = self._open_driver(driver)
            self.sizes = Sizes(self.database, self.driver, root)
            if repair:
                self._repair(alone=alone)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of what is held, and of the database. Closing twice does nothing."""
        if self.closed:
            return
        self.closed = True
        with ExitStack() as stack:  # each step is done even if one before it fails
            stack.callback(self.database.close)
            if hasattr(self, "leases"):
                stack.callback(self.leases.close)
            if hasattr(self, "driver"):
                stack.callback(self._let_go)
                # First, so that nothing of ours is mounted any more when others may take it.
                self.driver.close()

    def _let_go(self) -> None:
        self.drop_snapshots(self.records.let_go(self.leases.instance))

    # Opening

    def _bury_the_dead(self) -> bool:
        alive, dead = self.leases.others()
        for instance in dead:
            self.leases.bury(instance)
        return not alive

    def _open_driver(self, asked: str) -> SnapshotDriver:
        with self.database.write() as db:
            row = db.execute("SELECT value FROM settings WHERE name = 'driver'").fetchone()
            if row is None:
                driver = open_driver(asked, self.root)
                db.execute("INSERT INTO settings VALUES ('driver', ?)", (driver.name,))
                return driver
        if asked not in ("auto", row[0]):
            raise Invalid(
                f"this store was made with the driver {row[0]!r}, not {asked!r}",
                where=str(self.root),
                todo="leave the driver out, or use another root",
            )
        return open_driver(row[0], self.root)

    def _repair(self, *, alone: bool) -> None:
        self.reclaim()
        for record in self.records.unfinished_pairs():
            if record.snapshot is not None and self._is_committed(record.snapshot):
                self.records.finalized(record.id)
        drop_broken(self.database, self.driver.keys)
        if alone:
            self.sweep()

    def _is_committed(self, key: str) -> bool:
        try:
            return self.driver.is_committed(key)
        except NotFound:
            return False

    def has_snapshot(self, key: str) -> bool:
        """Whether there is such a snapshot."""
        try:
            self.driver.is_committed(key)
        except NotFound:
            return False
        return True

    def sweep(self) -> None:
        """Remove what nothing refers to; only while nobody else has the store open."""
        with _opening(self.root):
            alive, _ = self.leases.others()
            if alive:
                return
            directory = os.open(self.root / "ingest", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in os.listdir(directory):
                    remove_tree(directory, name)
            finally:
                os.close(directory)
            self.leases.stale_locks()
            self.kept.sweep()
            self.remove_orphans()

    def orphan_snapshots(self) -> list[str]:
        """Return the keys of snapshots that belong to no record and are not being made."""
        return unknown(self.database, self.driver.keys(), SNAPSHOTS)

    def remove_orphans(self) -> None:
        """Remove snapshots and blobs that no row speaks of; a crash between a row and its files leaves such."""
        self.drop_snapshots(self.orphan_snapshots())
        for name in self.blobs.orphans():
            self.blobs.remove_orphan(name)

    def dead_instances(self, *, bury: bool) -> list[str]:
        """Return the instances that died without a chance to say so; with `bury` their lock files go."""
        with _opening(self.root):  # else one that is just being born looks dead
            _, dead = self.leases.others()
            for instance in dead if bury else ():
                self.leases.bury(instance)
            return dead

    # Across rooms

    def reclaim(self) -> None:
        """Take back what processes that died since held or were making."""
        self.drop_snapshots(self.records.reclaim())

    def layers(self, record: Record) -> list[Record]:
        """Return the records whose layers a tree is made of, base first."""
        return layering.layers(record, self.records.family(record).__getitem__)

    def snapshot_chain(self, record: Record) -> list[str]:
        """Return the snapshot keys of a tree's layers, base first."""
        return self.stack(record)[0]

    def stack(self, record: Record) -> tuple[list[str], set[str]]:
        """Return the snapshot keys of a tree's layers, base first, and which stand over others than were below them."""
        family = self.records.outlines(record)
        found = layering.layers(family[record.id], family.__getitem__)
        moved: set[str] = set()
        chain = []
        for one, here in zip(found, layering.is_in_place(found, family.__getitem__), strict=True):
            if here:
                chain.append(one.snapshot or self._own_snapshot(one))
            elif key := self._exact_snapshot(one):
                chain.append(key)
                moved.add(key)
        return chain or [self._empty_snapshot(self.records.get(found[-1].id))], moved

    def own_chain(self, record: Record) -> list[str]:
        """Return the snapshot keys of a layer and of what it was made over, base first."""
        parent = self.records.parent(record)
        return [*(self.snapshot_chain(parent) if parent is not None else ()), self._own_snapshot(record)]

    def _own_snapshot(self, record: Record | Outline) -> str:
        """Return the key of a layer's snapshot; a diff's is made now, if nobody looked into it before."""
        if record.snapshot is not None:
            return record.snapshot
        with self.leases.locked(f"diff-{record.id}"):
            record = self.records.get(record.id)
            if record.snapshot is not None:
                return record.snapshot
            lower, upper = self.records.get(record.parents[0]), self.records.parent(record, 1)
            with ExitStack() as stack:
                old = stack.enter_context(self.tree(lower))
                new = stack.enter_context(self.tree(upper) if upper is not None else self._nothing())
                entries: Iterable[Entry] = changes(old, new)
                if upper is None:
                    entries = (entry for entry in entries if entry.kind in ("whiteout", "opaque"))
                key = self._make(self.snapshot_chain(lower), entries, new, link=True)
            self.records.update(record.id, snapshot=key)
            return key

    def _exact_snapshot(self, record: Record | Outline) -> str:
        """Return the key of a snapshot that can stand over other layers than those it was made over.

        It is empty for a layer that changes nothing.
        """
        own = self._own_snapshot(record)
        if record.exact is not None:
            return record.exact
        with self.leases.locked(f"exact-{record.id}"):
            record = self.records.get(record.id)
            if record.exact is None:
                chain = self.own_chain(record)
                entries = self.driver.changes(chain)
                key = own if entries else ""
                if entries and not self.driver.separate(chain, entries):
                    with self.driver.tree(chain) as tree:
                        key = self._make(chain[:-1], entries, tree, link=True)
                    self.driver.separate([*chain[:-1], key], entries)
                self.records.update(record.id, exact=key)
                return key
            return record.exact

    def _empty_snapshot(self, record: Record) -> str:
        """Return the key of a snapshot that shows nothing, for a tree all of whose layers change nothing."""
        chain = self.own_chain(record)
        if self.driver.separate(chain, []):
            return chain[-1]
        with self.leases.locked(f"exact-{record.id}"):
            record = self.records.get(record.id)
            if not record.exact:  # its own holds copies of what it did not change
                with self._nothing() as tree:
                    key = self._make(chain[:-1], [], tree, link=True)
                self.records.update(record.id, exact=key)
                return key
            return record.exact

    def _make(self, below: list[str], entries: Iterable[Entry], source: LocalTree, *, link: bool) -> str:
        """Make a snapshot over the chain `below` and return its key, which is reserved."""
        key = self.records.reserve_snapshot()
        with self.giving_up(key), self.driver.writer([*below, key]) as sink:
            copy_entries(entries, source, sink, link=link)
            sink.finish()
        return key

    @contextmanager
    def _nothing(self) -> Iterator[LocalTree]:
        """Yield an empty tree."""
        with tempfile.TemporaryDirectory(dir=self.root / "ingest") as path, DirectoryTree(path) as tree:
            yield tree

    @contextmanager
    def tree(self, record: Record) -> Iterator[LocalTree]:
        """Yield a record's tree, to be read without mounting it."""
        with self.driver.tree(self.snapshot_chain(record)) as tree:
            yield tree

    def new_mutable(self, parent: Record | None, new: NewRecord) -> Record:
        """Make a mutable record over a finalized parent, held."""
        below = self.snapshot_chain(parent) if parent is not None else []
        key = self.records.reserve_snapshot()
        with self.giving_up(key):
            self.driver.prepare([*below, key])
            return self.records.add(new, mutable=True, snapshot=key, parents=[parent.id] if parent else [])

    def hold_mutable(self, record_id: str) -> Record:
        """Do what `Records.hold_mutable` does; a finalization that died half-way is completed first."""
        record = self.records.get(record_id)
        if record.mutable and record.twin is not None and record.snapshot is not None:
            half_done = self._is_committed(record.snapshot)
            if half_done:
                self.records.finalized(record.twin)
        return self.records.hold_mutable(record_id)

    def finalize(self, record: Record) -> Record:
        """Make the driver commit an immutable record's snapshot, and return the record as it is then."""
        record = self.records.get(record.id)
        if record.twin is not None and record.snapshot is not None:
            self.driver.commit(record.snapshot)
            self.records.finalized(record.id)
            record = self.records.get(record.id)
        return record

    def layer_blobs(self, record: Record) -> list[Descriptor]:
        """Return the blobs in this store that hold a record's layer, in different forms, newest first."""
        if record.diff_id is None:
            return []
        return [blob for blob in self.blobs.of_layer(record.diff_id) if self.blobs.path(blob.digest).exists()]

    def size(self, record: Record) -> int:
        """Return the bytes a record takes on disk: its snapshot, and its layer's blobs."""
        blobs = self.blobs.of_layer(record.diff_id) if record.diff_id else ()
        return sum(self.sizes.of([record]).values()) + sum(blob.size for blob in blobs)

    @cached_property
    def can_clone(self) -> bool:
        """Whether copies of files share their blocks here."""
        with disk_errors(self.root):
            return can_clone(self.root / "ingest")

    @contextmanager
    def giving_up(self, key: str) -> Iterator[None]:
        """Remove the reserved snapshot `key` if the block fails, unless it has become that of a record by then."""
        try:
            yield
        except BaseException:
            if self.records.is_reserved(key):
                self.driver.remove(key)
                self.records.forget_snapshot(key)
            raise

    @contextmanager
    def read_blob(self, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """Yield the bytes of a blob of this store in pieces."""
        with self.blobs.open(descriptor.digest) as file:
            yield iter(lambda: file.read(PIECE), b"")

    def drop_snapshots(self, keys: Sequence[str]) -> None:
        """Remove snapshots whose records are gone; one that cannot be keeps none of the others."""
        failed: OSError | ShipwayError | None = None
        for key in keys:
            try:
                self.driver.remove(key)
            except (OSError, ShipwayError) as error:
                failed = failed or error
        if failed is not None:
            raise failed


@contextmanager
def _opening(root: Path) -> Iterator[None]:
    """Let one process at a time decide who has the store open."""
    try:
        fd = os.open(root / "locks" / "opening", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot be opened: {error.strerror}", where=str(root)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
