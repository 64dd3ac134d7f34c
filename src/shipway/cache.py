"""Cache: the manager of a store, and the way in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self

from shipway import combining, mounting
from shipway.boundary import typed_errors
from shipway.cachemounts import CacheMounts, Sharing
from shipway.config import Config, load
from shipway.elsewhere import Elsewhere
from shipway.explaining import explain_ref
from shipway.explanations import Explanation
from shipway.handles import LocalHandle, MutableHandle, own
from shipway.importing import import_tree
from shipway.keys import KeyRecord, Keys
from shipway.limits import Limits
from shipway.local import pruning, usage
from shipway.local.keeping import PruneOptions
from shipway.local.rows import NewRecord, Record
from shipway.local.store import Store
from shipway.local.verify import verify
from shipway.progress import ProgressCallback
from shipway.refs import LocalImmutableRef, MutableRef, RemoteImmutableRef
from shipway.remote_handles import RemoteHandle
from shipway.snapshots.contract import SnapshotDriver
from shipway.upkeep import Upkeep
from shipway.values import CachePolicy, Finding, PruneDecision, Pushed, RecordType, UsageRecord


@typed_errors
class Cache:
    """A store of refs under one root directory.

    Thread-safe; many processes may have the same root open. Close it, or use it as a
    context manager. Refs that are still held when it is closed are let go.
    """

    def __init__(self, store: Store, config: Config) -> None:
        """Use `Cache.open` instead."""
        self._store = store
        self._config = config
        self._elsewhere = Elsewhere(store, config.remotes, config.platform)
        self._keys = Keys(store, self._elsewhere)
        self._upkeep = Upkeep(store, config.prune)

    @classmethod
    def open(
        cls,
        root: str | Path | None = None,
        *,
        driver: str | None = None,
        remotes: Iterable[str] | None = None,
        platform: str | None = None,
        config: Config | str | Path | None = None,
        repair: bool = True,
        limits: Limits | None = None,
    ) -> Self:
        """Open the store at `root`, making it if there is none.

        What is None is as the configuration has it: a `SHIPWAY_*` variable, else the file, else the default.

        Args:
            root: the directory; by default `shipway` in the user's data directory.
            driver: `overlay`, `native`, or `auto`, which takes what works here; an existing store keeps its own.
            remotes: references of repositories where `lookup` asks after the store, in order.
            platform: which image of an index is meant, as `os/architecture[/variant]`; by default this machine's.
            config: the configuration file, if not the usual one; or a `Config`, for which no file or variable is read.
            repair: False leaves what processes that died left behind as it is, for `verify` to find.
            limits: what a layer that is pulled, extracted from or pushed here may claim.

        Raises:
            Invalid: a reference, platform or driver that makes no sense, or a configuration, by file and key.
            NotFound: a configuration file that was named is not there.
            Unavailable: the directory cannot be used.
            Corrupt: what is there is not a store, or of a newer format.
        """
        in_force = load(config, root=root, driver=driver, remotes=remotes, platform=platform).config
        store = Store(
            in_force.root,
            in_force.driver,
            registries=in_force.registry,
            repair=repair,
            limits=limits or in_force.limits.value,
        )
        return cls(store, in_force)

    @property
    def root(self) -> Path:
        """The store's root directory."""
        return self._store.root

    @property
    def config(self) -> Config:
        """The configuration that is in force."""
        return self._config

    @property
    def driver(self) -> SnapshotDriver:
        """The snapshot driver; `driver.reason` says why it is this one."""
        return self._store.driver

    @property
    def store(self) -> Store:
        """The store itself, for the rooms above this one."""
        return self._store

    # Local refs

    def new(
        self,
        parent: LocalImmutableRef | None = None,
        *,
        policy: CachePolicy = CachePolicy.DEFAULT,
        description: str = "",
        record_type: RecordType = RecordType.REGULAR,
        labels: Mapping[str, str] | None = None,
    ) -> MutableRef:
        """Return a new mutable ref, empty or over `parent`, which is finalized and stays held below it."""
        new = NewRecord(
            policy=CachePolicy(policy),
            record_type=RecordType(record_type),
            description=description,
            labels=dict(labels or {}),
        )
        return MutableHandle(self._store, self._store.new_mutable(self._finalized(parent), new))

    def get(self, ref_id: str) -> LocalImmutableRef:
        """Return a hold on an immutable ref. `NotFound`; `Invalid` if it is mutable."""
        return LocalHandle(self._store, self._store.records.hold_immutable(ref_id))

    def get_mutable(self, ref_id: str) -> MutableRef:
        """Take up a mutable ref again; the immutable one it was committed to, if not finalized, is gone then.

        `NotFound`; `Invalid` if it is immutable; `Locked` if it or what it was committed to is held.
        """
        return MutableHandle(self._store, self._store.hold_mutable(ref_id))

    def mutable(
        self,
        name: str,
        parent: LocalImmutableRef | None = None,
        *,
        sharing: Sharing = "shared",
        timeout: float | None = None,
    ) -> MutableRef:
        """Return a mutable ref over the cache mount `name`, which goes on where its last holder left it.

        It is kept when it is let go of. `commit` gives its tree at that moment as a finalized ref, which stays as
        it is; the name goes on from there. `parent` is what a name that is new starts from.

        Args:
            name: any string.
            parent: see above.
            sharing: who else may hold it. `shared`: others of this `Cache`, and all write to one tree; another process
                never, since two mounts of one overlay would damage it. `private`: a second
                holder gets one of its own, which starts from `parent`. `locked`: nobody; who comes second waits.
            timeout: seconds to wait for another holder; by default as long as it takes for `locked`, else not at all.

        Raises `Locked` if it is still held then.
        """
        below = None if parent is None else own(self._store, parent).record()
        return self.cache_mounts.take(name, below, sharing, timeout)

    @property
    def cache_mounts(self) -> CacheMounts:
        """The cache mounts by name: to list, commit, restore and remove them."""
        return CacheMounts(self._store)

    def restore(self, name: str, ref: LocalImmutableRef) -> None:
        """Make the cache mount `name` go on from `ref`, whatever it held before. `Locked` if it is in use."""
        self.cache_mounts.restore(name, own(self._store, ref))

    def mount_cache_at(self, name: str, target: str | Path) -> str:
        """Mount the cache mount `name` at an existing directory until `unmount_at`; return the id of its record.

        The mount holds it. `Locked` if it is in use, `Unavailable` where mounting is not allowed.
        """
        take = partial(self.cache_mounts.take, name, None, "locked", timeout=0)
        return mounting.mount_at(self._store, target, take, readonly=False)

    def find(self, prefix: str) -> str:
        """Return the id that starts with `prefix`. `NotFound` if there is none, `Invalid` if there are several."""
        return self._store.records.id_of(prefix)

    def import_tree(
        self,
        path: str | Path,
        parent: LocalImmutableRef | None = None,
        *,
        description: str = "",
        progress: ProgressCallback | None = None,
    ) -> LocalImmutableRef:
        """Return a ref whose tree is exactly the directory `path` as it is now.

        With `parent` only what differs from it is stored, contents compared byte for byte. Raises `NotFound` or
        `Invalid` for a path that is no directory, `Corrupt` if a file changes while it is read.
        """
        below = self._finalized(parent)
        new = NewRecord(record_type=RecordType.LOCAL, description=description or str(path))
        return LocalHandle(self._store, import_tree(self._store, Path(path), below, new, progress))

    # Remote refs

    def remote(self, reference: str, *, platform: str | None = None) -> RemoteImmutableRef:
        """Return the image at `reference` as a remote ref; only its manifest is fetched.

        `platform`, by default the cache's, is which image of an index is meant: `os/architecture[/variant]`.
        Raises `Invalid` for a reference or platform that is none, `NotFound`, `RepositoryNotFound`,
        `Unauthorized`, `Unavailable`, `UnknownMediaType`, `Corrupt`.
        """
        return self._elsewhere.image(reference, platform)

    def push(
        self,
        ref: LocalImmutableRef | RemoteImmutableRef,
        reference: str,
        *,
        compression: str | None = None,
        level: int | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Pushed:
        """Copy a ref's tree, as an OCI image, to where `reference` says; only what is lacking there moves.

        Of a remote ref blobs are copied as they are; within one registry only the manifest moves. `compression`
        (`zstd:chunked` by default, `zstd`, `gzip`, `estargz`, `uncompressed`) and `level` are for layers that have no
        blob yet. With `force` all layers get that form: the DiffIDs stay, but for eStargz, which is an archive of its
        own. With `level` and `force` all are packed again, since nobody can tell which level a blob was made with. And
        with `force` every blob is asked for, whatever manifest is there, so that one that was lost is sent again.
        Raises `Invalid` for a compression or a level that there is not.
        """
        handle = ref if isinstance(ref, RemoteHandle) else own(self._store, ref)
        return handle.push(reference, compression=compression, level=level, force=force, progress=progress)

    # Merge and diff

    def merge(
        self, refs: Sequence[LocalImmutableRef | RemoteImmutableRef]
    ) -> LocalImmutableRef | RemoteImmutableRef | None:
        """Return the trees of `refs` laid over each other, later ones over earlier ones; None for none.

        No file is touched until somebody looks: a merge is exported as the layers of its inputs. Merging remote
        refs gives a remote ref, which fetches nothing; if some are local the remote ones are pulled. One ref is
        given back as another hold on it. The result holds its inputs.
        """
        return combining.merge(self._store, refs)

    def diff(
        self, lower: LocalImmutableRef | RemoteImmutableRef | None, upper: LocalImmutableRef | RemoteImmutableRef | None
    ) -> LocalImmutableRef | RemoteImmutableRef | None:
        """Return what makes `upper` of `lower`, deletions too: laid over `lower` it gives `upper`.

        Without `upper` it deletes all of `lower`; without `lower` it is `upper`; None without both.
        Where `upper` stands on the layers of `lower` it is the layers between, local or remote;
        else the two trees are compared when somebody first looks, for which remote refs are
        pulled. The result holds its inputs.
        """
        return combining.diff(self._store, lower, upper)

    # Keys

    def put(
        self, key: str | bytes, ref: LocalImmutableRef, *, push_to: str | None = None, only_if_absent: bool = False
    ) -> None:
        """Make `key` name a ref, which is finalized. The last one to put wins.

        With `push_to`, a reference of a place (`oci://host/repository`, `s3://bucket/prefix`), the ref is pushed
        there too under the key's tag, so that others who have that place among their remotes find it.

        With `only_if_absent` the first one to put wins; others who put something else get `Conflict` and change
        nothing. Who is first is decided there, by the bucket or layout that `push_to` names (`Invalid` for a registry,
        which cannot), else by this store.
        """
        self._keys.put(key, own(self._store, ref), push_to=push_to, only_if_absent=only_if_absent)

    def lookup(self, key: str | bytes) -> LocalImmutableRef | RemoteImmutableRef | None:
        """Return the ref that `key` names: from the store, else from the first remote that knows it, else None.

        A key whose ref is gone is a miss, and forgotten; so is one that names an image elsewhere whose blobs turned
        out to be gone (`Missing`), until they are back. Raises `Unavailable` or
        `Unauthorized` if a remote could not be asked and none of the others knows the key.
        """
        return self._keys.lookup(key)

    def explain(self, key: str | bytes) -> Explanation:
        """Return what a lookup of `key` finds now and why: what the store and each remote answers. Changes nothing.

        For a ref that is here it says how it was pulled, too: which bytes of which layer came from where.
        """
        return self._keys.explain(key)

    def explain_ref(self, ref_id: str) -> Explanation:
        """Return how a ref came to be here. `NotFound`."""
        return explain_ref(self._store, ref_id)

    def keys(self, ref_id: str | None = None) -> Iterator[KeyRecord]:
        """Return the keys that were put here, or those that name one ref, in order."""
        return self._keys.records(ref_id)

    # Room on the disk

    def disk_usage(self, filters: Iterable[str] = ()) -> Iterator[UsageRecord]:
        """Return a record for each tree in the store, oldest first; with `filters` those that one of them means.

        A filter is as BuildKit has them: `type==regular,description~=PATTERN`, `inuse`; see the how-to page. `Invalid`
        for one that is none. A blob that several records share is counted with the first of them.
        """
        return usage.disk_usage(self._store, filters)

    def overhead(self) -> int:
        """Return the bytes under the root that belong to no tree: database, directories, what is unfinished.

        With the sizes of all records it is what `du` says of the root, to a few blocks.
        """
        return usage.overhead(self._store)

    def prune(
        self,
        *,
        ids: Iterable[str] | None = None,
        all: bool = True,  # noqa: A002  BuildKit's name of the option
        filters: Iterable[str] = (),
        keep_duration: float | timedelta | None = None,
        reserved_space: int | None = None,
        max_used_space: int | None = None,
        min_free_space: int | None = None,
        dry_run: bool = False,
    ) -> Iterator[PruneDecision]:
        """Remove what nobody holds: everything, or what the options say; return what was removed, and why.

        It is done when the call returns, whether or not the result is read. Children go before
        parents, else the least recently used first, those that were used often later.

        Args:
            ids: only these; `NotFound` or `Locked` if one cannot be removed; then none is.
            all: without it records of the types `internal` and `frontend` stay.
            filters: only what one of them means; see `disk_usage`.
            keep_duration: what was used in the last so many seconds stays.
            reserved_space: stop when the store has shrunk to so many bytes.
            max_used_space: bytes that the store is brought down to.
            min_free_space: bytes that the disk is to have free, as far as the store can give them.
            dry_run: remove nothing; return a decision for every record, also for those that would stay.
        """
        if isinstance(keep_duration, timedelta):
            keep_duration = keep_duration.total_seconds()
        options = PruneOptions(
            filters=tuple(filters),
            everything=all,
            keep_duration=keep_duration,
            reserved_space=reserved_space,
            max_used_space=max_used_space,
            min_free_space=min_free_space,
        )
        return pruning.prune(self._store, options, None if ids is None else list(ids), dry_run=dry_run)

    def upkeep(self) -> AbstractContextManager[None]:
        """Apply the prune policies of the configuration, when they are due, for as long as the block lasts.

        After each commit they are looked at anyway; this is for a process that is there for long, such as a server.
        """
        return self._upkeep.regularly()

    def verify(self, *, repair: bool = False, progress: ProgressCallback | None = None) -> list[Finding]:
        """Read every byte of the store against its digest and every row against what is there; return what is wrong.

        With `repair` what can be repaired is, and each finding says how: damaged blobs are forgotten, snapshots
        made again of their blobs, or else their refs dropped with all that stands on them, leftovers removed.
        It may run while others use the store; nothing is taken away that is in use.
        """
        return verify(self._store, repair=repair, progress=progress)

    # Mounts that outlive the process

    def mount_at(self, ref_id: str, target: str | Path, *, writable: bool = False) -> str:
        """Mount a ref at an existing directory until `unmount_at`; return the id of what is mounted.

        With `writable` that is a new mutable ref over it (or the mutable ref itself), which is kept.
        The mount holds the ref. `Unavailable` where mounting is not allowed.
        """
        take = partial(mounting.to_mount, self._store, ref_id, writable=writable)
        return mounting.mount_at(self._store, target, take, readonly=not writable)

    def unmount_at(self, target: str | Path, *, commit: bool = False) -> str | None:
        """Unmount what `mount_at` mounted; return the id of the ref it was, with `commit` of the new immutable one.

        `NotFound` if nothing of this store is mounted there.
        """
        return mounting.unmount_at(self._store, target, commit=commit)

    def mounts(self) -> list[tuple[str, str]]:
        """Return (directory, id) of what `mount_at` mounted."""
        return self._store.holds.mounts()

    # Life

    def close(self) -> None:
        """Let go of everything that is still held, and of the store; a background prune comes to its end first."""
        try:
            self._upkeep.close()
        finally:
            self._store.close()

    def _finalized(self, parent: LocalImmutableRef | None) -> Record | None:
        return None if parent is None else self._store.finalize(own(self._store, parent).record())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
