"""The contracts: what a ref is and what may be done with it.

A *ref* is a hold on a cached tree. While you hold it nobody prunes it; when
you release it the tree stays in the store until someone does. Everything else
in this package exists to fulfil the protocols below.

    Ref                        id, release(), size(), metadata
    ├── ImmutableRef           finalize(), checksum()
    │   ├── LocalImmutableRef  + Mountable + Extractable, parent
    │   └── RemoteImmutableRef + Extractable, pull()
    └── MutableRef             + Mountable, commit()

**Life of a tree.** `Cache.new()` makes a mutable ref. You mount it, write,
and `commit()` it: that consumes the mutable ref and returns an immutable one
over the very same files, so it costs nothing. Until the immutable ref is
*finalized* the change can be taken up again (`Cache.get_mutable(id)`), which
makes the immutable one disappear. Using a ref as a parent, pushing it or
giving it a key finalizes it.

**Long calls.** Whatever can take long has `progress=` (see
`shipway.progress`), stops promptly on `KeyboardInterrupt` or when the callback
raises, and leaves nothing half-made behind.

**Threads and processes.** All refs may be used from several threads. Refs of
one store may be held by many processes at once; a process that dies lets go.

**After release.** Any call but `release()` and `id` on a released ref raises
`Invalid`. `release()` may be called again; it then does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, runtime_checkable

from shipway.progress import ProgressCallback
from shipway.values import (
    CachePolicy,
    Extracted,
    FileStat,
    Finding,
    Mount,
    PruneDecision,
    Pushed,
    RecordType,
    Traffic,
    UsageRecord,
    Verdict,
)

__all__ = [
    "AnyRef",
    "CachePolicy",
    "Extractable",
    "Extracted",
    "FileStat",
    "Finding",
    "ImmutableRef",
    "LocalImmutableRef",
    "Metadata",
    "Mount",
    "Mountable",
    "MutableRef",
    "PruneDecision",
    "Pushed",
    "RecordType",
    "Ref",
    "RemoteImmutableRef",
    "Traffic",
    "UsageRecord",
    "Verdict",
]


class Metadata(Protocol):
    """What is remembered about a record besides its tree. Setting a field stores it at once."""

    description: str
    """A line for people."""
    record_type: RecordType
    policy: CachePolicy
    labels: Mapping[str, str]
    """Free-form; always replaced as a whole, the mapping itself cannot be changed."""

    @property
    def created(self) -> datetime:
        """When the record was made, in UTC."""

    @property
    def last_used(self) -> datetime | None:
        """When a hold on it was last let go, in UTC; None if never."""

    @property
    def usage_count(self) -> int:
        """How often a hold on it was let go."""


class Ref(Protocol):
    """A hold on a tree. Leaving its `with` block releases it."""

    @property
    def id(self) -> str:
        """The record's name in its store, or a remote ref's reference; stable, never reused."""

    @property
    def metadata(self) -> Metadata:
        """The record's metadata."""

    def size(self) -> int:
        """Return the bytes it takes on disk, without its parents; for a remote ref, its blobs' bytes."""

    def release(self) -> None:
        """Let go. The first call counts, others do nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Mountable(Protocol):
    """A tree that can be seen as a directory of this machine."""

    def mount(self, *, readonly: bool = False) -> list[Mount]:
        """Return the mounts that show the tree. They are valid while the ref is held.

        An immutable ref always mounts read-only, whatever `readonly` says.
        """

    def mounted(self, *, readonly: bool = False) -> AbstractContextManager[Path]:
        """Return a context manager that yields a directory with the tree, and cleans up in every case.

        Several at a time share their data. Where mounting is not allowed, an
        immutable tree is shown as a private copy, a mutable one as itself.
        Raises `Unavailable` if the mount is refused.
        """


class Extractable(Protocol):
    """A tree that files can be taken out of, wherever its bytes are."""

    def extract(
        self,
        to_path: str | Path,
        *src_paths: str,
        parents: bool = False,
        wildcard: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Extracted:
        """Copy sources into the directory `to_path`, as `cp -a` does; no sources means everything.

        A source is a path in the tree: a file, a directory, or with `wildcard`
        a pattern (`*`, `?`, `[…]`, `**`). It lands under `to_path` by its base name, or
        with `parents` by its full path; `/` lands the tree's contents. Symlinks
        on the way to a source are resolved inside the tree, never on the host.
        Modes, owners (when permitted), mtimes, xattrs, symlinks, hard links
        among what is extracted, devices (when permitted) and holes are kept.

        A local and a remote ref of one tree extract to identical results.
        Raises `NotFound` for a source that is not there (before anything is
        written), `Corrupt` for bytes that do not match their digest, `NoSpace`.
        """

    def stat(self, path: str = "/", *, follow: bool = True) -> FileStat:
        """Return what is at `path`, without its content.

        Symlinks on the way are resolved inside the tree; `follow` says whether one at the end is, and
        then the answer is about what it leads to, under the path of that. Raises `NotFound`,
        and `Invalid` for a loop of symlinks.
        """

    def walk(self, path: str = "/", *, depth: int | None = None) -> Iterator[FileStat]:
        """Yield what is at `path` and all that is below it, each directory before its names in byte order.

        Contents are not read, and symlinks below `path` are not followed; those in `path` are, inside the
        tree. `depth` is how many levels below `path` are shown: 1 lists a directory. Raises what `stat` does.
        """

    def open(self, path: str) -> BinaryIO:
        """Return the content of the file at `path` as a buffered binary file that can be sought in.

        Symlinks are resolved inside the tree. The file is read-only, used by one thread at a time, and good
        as long as the ref is held. Of a remote ref only the chunks that are read move, with more ahead
        the longer it is read in order; each is checked against its digest before a byte of it is returned,
        and a few are kept in memory. Where a remote layer allows no random access the whole
        file is fetched by `open`, checked, and kept on disk until it is closed.

        Raises `NotFound`; `Invalid` for what is no regular file. Reading raises `Corrupt` and its kinds, and
        `Unavailable`.
        """


class ImmutableRef(Ref, Protocol):
    """A tree that never changes again."""

    def finalize(self) -> None:
        """Make sure the tree is flushed to the driver: from here on it cannot be reopened for change.

        Finalizing twice does nothing.
        """

    def checksum(
        self,
        path: str = "/",
        *,
        follow: bool = True,
        wildcard: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> str:
        """Return a digest (`sha256:…`) of what is at `path`: the basis of cache keys, equal to BuildKit's.

        It is over names, contents, modes, owners, symlinks, devices and xattrs, and not over times: trees with
        equal files have equal checksums, however and wherever they were made. `follow` says whether a
        symlink at the end of `path` is followed, inside the tree; those on the way always are. With `wildcard`
        the path is a pattern (`*`, `?`, `[…]`, each for one component). `include` and `exclude` are patterns as in a
        `.dockerignore`, `**` and `!` too, relative to what `path` names, whose header counts unless it ends in a
        slash. With these, too, `follow` is about the symlinks at the top, and nothing that matches gives the
        digest of no bytes.

        What was computed is kept: of a local ref no file is read twice, of a child only those of its own layer;
        of a remote ref only the files that are asked about are fetched, and once.

        Raises `NotFound` for a path, or a symlink that is followed, that leads to nothing, and `Invalid` for a
        malformed pattern or a loop of symlinks.
        """


@runtime_checkable
class LocalImmutableRef(ImmutableRef, Mountable, Extractable, Protocol):
    """An immutable tree that is in this store."""

    @property
    def parent(self) -> LocalImmutableRef | None:
        """A new hold on the tree this one was made over (release it too), or None."""

    def push(
        self,
        reference: str,
        *,
        compression: str | None = None,
        level: int | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Pushed:
        """Copy the tree, as an OCI image, to where `reference` says; only what is lacking there moves.

        `compression` (`zstd:chunked` by default, `zstd`, `gzip`, `estargz`, `uncompressed`) and `level` are for layers
        that have no blob yet; those that have one are sent as they are, unless `force` asks for the same form of all.
        """


@runtime_checkable
class RemoteImmutableRef(ImmutableRef, Extractable, Protocol):
    """An immutable tree that is somewhere else; it cannot be mounted until it is pulled."""

    @property
    def traffic(self) -> Traffic:
        """What this ref has moved so far: looking it up, listing, extracting, pulling."""

    def pull(self, *, progress: ProgressCallback | None = None) -> LocalImmutableRef:
        """Copy the whole tree into the store and return it as a local ref.

        Layers that are here already do not move. Raises `NotFound` for a blob
        that is gone, `Corrupt` for one that is not what it should be; then the
        store is as it was, but for whole layers that had already arrived.
        """

    def publish_indexes(self) -> str:
        """Put indexes of the layers that have no table of contents beside the image, and return the digest they have.

        With them others read these layers by ranges without having read them whole first, if they trust that digest:
        `take_indexes`. Layers of which there is no index here are read for that. Raises `NotFound` if none of
        the layers can have one, `Invalid` for a ref made of several images.
        """

    def take_indexes(self, digest: str) -> int:
        """Keep the indexes that were published under `digest`, and return of how many layers they are.

        What an index says is believed as the image itself is: take the digest from whoever you would take the
        image's from. Raises `NotFound`, `Invalid` if they are of another image, `Corrupt`.
        """


AnyRef = LocalImmutableRef | RemoteImmutableRef
"""An immutable tree, wherever it is."""


@runtime_checkable
class MutableRef(Ref, Mountable, Protocol):
    """A tree that can be written to, held by one holder at a time."""

    def commit(self) -> LocalImmutableRef:
        """Return the tree as an immutable ref, and consume this one: releasing it afterwards does nothing.

        It costs nothing: both share the same files.
        """
