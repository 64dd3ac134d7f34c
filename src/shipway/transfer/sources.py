"""Layers that are somewhere else: which image they belong to, and how their bytes are got at.

A remote ref is a list of such layers, base first. Most are all the layers of one image; a merge
has those of several, a difference some of one. The manifests are all that is needed to tell.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from shipway import oci
from shipway.errors import NotFound, Unavailable
from shipway.local.store import PIECE, Store
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.checks import end_of_range
from shipway.remotes.contract import BlobSource, Remote
from shipway.remotes.places import Place, Places
from shipway.transfer.images import Image, read_diff_ids


class RemoteImage:
    """An image and the remote it is at, which is closed when the last ref that needs it is released."""

    def __init__(self, remote: Remote, image: Image) -> None:
        """Take over `remote`. Nobody holds it yet."""
        self.remote = remote
        self.image = image
        self._lock = threading.Lock()
        self._holds = 0
        self._diff_ids: list[str] | None = None

    def hold(self) -> None:
        """Keep the remote open until one more `release`."""
        with self._lock:
            self._holds += 1

    def release(self) -> None:
        """Let go; the last one closes the remote."""
        with self._lock:
            self._holds -= 1
            last = self._holds == 0
        if last:
            self.remote.close()

    def diff_ids(self) -> list[str]:
        """Return the DiffIDs of the layers; the configuration is fetched the first time."""
        with self._lock:
            if self._diff_ids is None:
                self._diff_ids = read_diff_ids(self.remote, self.image)
            return self._diff_ids

    def layers(self) -> list[RemoteLayer]:
        """Return the image's layers, base first."""
        lineage = hashlib.sha256()
        found = []
        for index, descriptor in enumerate(self.image.manifest.layers):
            lineage.update(descriptor.digest.encode())
            found.append(RemoteLayer(self, index, descriptor, lineage.hexdigest()))
        return found


@dataclass(frozen=True, slots=True)
class RemoteLayer:
    """One layer of an image; `lineage` is the same for equal layers over equal ones."""

    source: RemoteImage
    index: int
    descriptor: Descriptor
    lineage: str

    @property
    def diff_id(self) -> str:
        """The layer's DiffID."""
        return self.source.diff_ids()[self.index]


def merged(inputs: Sequence[Sequence[RemoteLayer]]) -> list[RemoteLayer]:
    """Return the layers of several trees laid over each other; of a layer that comes several times, the last one."""
    found = [layer for layers in inputs for layer in layers]
    last = {layer.lineage: index for index, layer in enumerate(found)}
    return [layer for index, layer in enumerate(found) if last[layer.lineage] == index]


def between(lower: Sequence[RemoteLayer], upper: Sequence[RemoteLayer]) -> list[RemoteLayer] | None:
    """Return the layers that `upper` has over all those of `lower`; None if it does not stand on them."""
    below = [layer.lineage for layer in lower]
    if len(upper) > len(lower) and [layer.lineage for layer in upper[: len(lower)]] == below:
        return list(upper[len(lower) :])
    return None


class JoinedBlobs:
    """The blobs of several layers as one `BlobSource`, each read from where it is."""

    def __init__(self, layers: Sequence[RemoteLayer]) -> None:
        """Hold the images of `layers` until `close`."""
        self._remotes = {layer.descriptor.digest: layer.source.remote for layer in layers}
        self._sources = tuple({id(layer.source): layer.source for layer in layers}.values())
        self._closed = False
        for source in self._sources:
            source.hold()
        self.name = ", ".join(dict.fromkeys(source.remote.name for source in self._sources))

    @property
    def traffic(self) -> Traffic:
        """All that the remotes have moved so far."""
        return sum((source.remote.traffic for source in self._sources), Traffic())

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """Open a stream over a blob; see `BlobSource.read_blob`."""
        remote = self._remotes.get(descriptor.digest)
        if remote is None:
            raise NotFound("is not a layer of this ref", where=descriptor.digest)
        return remote.read_blob(descriptor, offset, length)

    def close(self) -> None:
        """Let go of the images."""
        if not self._closed:
            self._closed = True
            for source in self._sources:
                source.release()


class StoredBlobs:
    """The blobs of a store as a `BlobSource`. Nothing of it moves."""

    name = "this store"
    traffic = Traffic()

    def __init__(self, store: Store) -> None:
        """Read from `store`."""
        self._store = store

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes | memoryview]]:
        """Open a stream over a blob; see `BlobSource.read_blob`.

        Whoever asks for all of a blob may leave it early, before it can be checked: so that is done first.
        """
        where = f"{self.name}, {descriptor.digest}"
        end = end_of_range(descriptor.size, offset, length, where)
        with self._store.blobs.open(descriptor.digest) as file:
            oci.check_size(os.fstat(file.fileno()).st_size, descriptor.size, where)
            if end - offset == descriptor.size:
                digest = hashlib.sha256()
                for piece in _read(file.fileno(), 0, end, where):
                    digest.update(piece)
                oci.check_match(f"sha256:{digest.hexdigest()}", descriptor.digest, where)
            yield _read(file.fileno(), offset, end, where)

    def close(self) -> None:
        """Do nothing: the store stays open."""


def _read(fd: int, position: int, end: int, where: str) -> Iterator[bytes]:
    while position < end:
        try:
            piece = os.pread(fd, min(PIECE, end - position), position)
        except OSError as error:
            raise Unavailable(f"cannot be read: {error.strerror}", where=where) from error
        if not piece:
            raise Unavailable("has become shorter", where=where)
        position += len(piece)
        yield piece


class HereFirst:
    """Blobs that are in this store from there, the others, and those that are damaged there, from where they are."""

    def __init__(self, store: Store, blobs: BlobSource) -> None:
        """Read from `store`, and from `blobs`, which stays open."""
        here: BlobSource = StoredBlobs(store)
        self._blobs = blobs
        self._places = Places([Place.of(here, decides=False, changes=True), Place.of(blobs)])
        self.name = blobs.name

    @property
    def traffic(self) -> Traffic:
        """All that has moved so far."""
        return self._blobs.traffic

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """Open a stream over a blob; see `BlobSource.read_blob`."""
        return self._places.read_blob(descriptor, offset, length)

    def close(self) -> None:
        """Do nothing: what it reads from stays open."""
