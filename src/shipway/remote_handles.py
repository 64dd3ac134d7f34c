"""Remote refs: trees that are somewhere else, of which only manifests were fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from shipway.boundary import typed_errors
from shipway.errors import Invalid
from shipway.explanations import Pulled, Way
from shipway.handles import LocalHandle, push_target
from shipway.local.checksums import RemoteDigests
from shipway.local.store import Store
from shipway.progress import ProgressCallback
from shipway.reading import ShowsTree
from shipway.references import without_digest
from shipway.refs import CachePolicy, Extracted, Pushed, RecordType, Traffic
from shipway.remotes import open_target
from shipway.transfer.checksums import remote_checksums
from shipway.transfer.publishing import publish_indexes, take_indexes
from shipway.transfer.pull import pull
from shipway.transfer.push import push_layers
from shipway.transfer.reencode import Encoding
from shipway.transfer.remote_tree import RemoteTree
from shipway.transfer.sources import JoinedBlobs, RemoteImage, RemoteLayer
from shipway.trees.checksum import Checksums
from shipway.trees.entry import SeekableTree


class RemoteMetadata:
    """What is known of a remote ref besides its tree; nothing of it can be set."""

    usage_count = 0
    last_used: datetime | None = None

    def __init__(self, reference: str, annotations: dict[str, str]) -> None:
        """Describe the ref at `reference`, whose manifest has `annotations`."""
        self._reference = reference
        self._annotations = annotations

    description = property(lambda self: self._reference, lambda self, _: self._refuse(), doc="The reference.")
    record_type = property(lambda _: RecordType.REGULAR, lambda self, _: self._refuse(), doc="Always `REGULAR`.")
    policy = property(lambda _: CachePolicy.DEFAULT, lambda self, _: self._refuse(), doc="Always `DEFAULT`.")
    labels = property(
        lambda self: MappingProxyType(self._annotations),
        lambda self, _: self._refuse(),
        doc="The manifest's annotations.",
    )

    @property
    def created(self) -> datetime:
        """When the image says it was made, in UTC; 1970 if it does not."""
        text = self._annotations.get("org.opencontainers.image.created", "")
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            return datetime.fromtimestamp(0, UTC)

    def _refuse(self) -> None:
        raise Invalid("a remote ref's metadata cannot be changed", where=self._reference, todo="pull it first")


@typed_errors
class RemoteHandle(ShowsTree):
    """A `RemoteImmutableRef`: layers of an image somewhere, or of several."""

    def __init__(
        self, store: Store, name: str, layers: Sequence[RemoteLayer], annotations: dict[str, str] | None = None
    ) -> None:
        """Show the tree that `layers` make, base first; their images are held until the release."""
        self._store = store
        self._name = name
        self._layers = tuple(layers)
        self._annotations = annotations or {}
        self._blobs = JoinedBlobs(layers)
        self._descriptors = tuple(layer.descriptor for layer in layers)
        self._tree: RemoteTree | None = None
        self._checksums: Checksums | None = None
        self._released = False

    @property
    def id(self) -> str:
        """The reference, with the digest that it had when it was looked up; for a merge, how it was made."""
        return self._name

    @property
    def metadata(self) -> RemoteMetadata:
        """What the image says about itself; read only."""
        self._check()
        return RemoteMetadata(self._name, self._annotations)

    @property
    def layers(self) -> tuple[RemoteLayer, ...]:
        """Its layers, base first."""
        self._check()
        return self._layers

    @property
    def traffic(self) -> Traffic:
        """What the remotes it comes from have moved so far."""
        return self._blobs.traffic

    def size(self) -> int:
        """Return the bytes of its layers, as stored there."""
        self._check()
        return sum(descriptor.size for descriptor in self._descriptors)

    def finalize(self) -> None:
        """Do nothing: it is as final as can be."""
        self._check()

    def release(self) -> None:
        """Let go of the connections, unless another ref needs them."""
        if not self._released:
            self._released = True
            self._blobs.close()

    @contextmanager
    def tree(self) -> Iterator[SeekableTree]:
        """Yield the tree to be listed and read; tables of contents are fetched once."""
        yield self._remote_tree()

    def _remote_tree(self) -> RemoteTree:
        self._check()
        if self._tree is None:
            self._tree = RemoteTree(self._blobs, self._descriptors, store=self._store)
        return self._tree

    def extract(
        self,
        to_path: str | Path,
        *src_paths: str,
        parents: bool = False,
        wildcard: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Extracted:
        """Copy sources into `to_path`, fetching what is needed and not here; see `shipway.refs.Extractable`."""
        return self._remote_tree().extract(to_path, src_paths, parents=parents, wildcard=wildcard, progress=progress)

    def checksum(
        self,
        path: str = "/",
        *,
        follow: bool = True,
        wildcard: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> str:
        """Return a digest of what is at `path`, reading only files it is over; see `shipway.refs.ImmutableRef`."""
        tree = self._remote_tree()
        if self._checksums is None:
            self._checksums = remote_checksums(tree, RemoteDigests(self._store.database))
        return self._checksums.checksum(path, follow=follow, wildcard=wildcard, include=include, exclude=exclude)

    def pull(self, *, progress: ProgressCallback | None = None) -> LocalHandle:
        """Copy the whole tree into the store and return it as a local ref."""
        self._check()
        diff_ids = [layer.diff_id for layer in self._layers]
        name = without_digest(self._name)
        pulled = pull(self._store, name, self._descriptors, diff_ids, remote=self._blobs, progress=progress)
        for layer in self._layers:
            self._store.places.saw(layer.source.remote.name, [(layer.descriptor, layer.diff_id)])
        if any(layer.way is not Way.HERE for layer in pulled.layers):
            self._store.reports.save(pulled.record.id, Pulled(self._name, datetime.now(UTC), pulled.layers))
        return LocalHandle(self._store, pulled.record)

    def publish_indexes(self) -> str:
        """Put indexes of its layers beside the image; see `shipway.refs.RemoteImmutableRef`."""
        source = self._image()
        return publish_indexes(self._store, source.remote, source.image)

    def take_indexes(self, digest: str) -> int:
        """Take indexes that somebody published; see `shipway.refs.RemoteImmutableRef`."""
        source = self._image()
        count = take_indexes(self._store, source.remote, source.image, digest)
        self._tree = None  # it may have been opened without them
        return count

    def _image(self) -> RemoteImage:
        self._check()
        sources = {id(layer.source): layer.source for layer in self._layers}
        if len(sources) != 1:
            raise Invalid("is made of several images", where=self._name, todo="name one of them")
        return next(iter(sources.values()))

    def push(
        self,
        reference: str,
        *,
        compression: str | None = None,
        level: int | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Pushed:
        """Make an image of its layers where `reference` says; what is lacking there is copied.

        With `force` layers that have another form than asked for are packed again; see `Cache.push`.
        """
        self._check()
        encoding = Encoding.of(compression, level, force=force)
        target = push_target(reference)
        with closing(open_target(target, self._store.registries, self._store.uploads)) as remote:
            return push_layers(
                self._store,
                self._layers,
                self._blobs,
                remote,
                tag=target.target,
                encoding=encoding,
                progress=progress,
            )

    def _check(self) -> None:
        if self._released:
            raise Invalid("was released", where=self._name, todo="get it again from the cache")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<RemoteHandle {self._name}{' released' if self._released else ''}>"
