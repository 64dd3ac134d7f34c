"""Push: a record's layers, as blobs, to where they are lacking; the manifest last."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO, cast

from shipway import oci
from shipway.errors import Corrupt, NotFound, Unauthorized, UnknownMediaType
from shipway.layers.compression import Compression
from shipway.layers.pack import Packed, pack
from shipway.local.layering import is_in_place
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.references import Reference
from shipway.refs import Pushed, Traffic
from shipway.remotes.contract import BlobSource, Expected, Remote
from shipway.remotes.spooled import copy_blob
from shipway.stopping import Workers
from shipway.transfer.images import Layer, make_image
from shipway.transfer.reencode import Encoding, reencoded
from shipway.transfer.sources import HereFirst, RemoteLayer
from shipway.trees.diff import everything

PARALLEL = 4


def ensure_layers(
    store: Store,
    record: Record,
    progress: ProgressCallback | None = None,
    elsewhere: Callable[[str], Descriptor | None] = lambda _: None,
    encoding: Encoding = Encoding(),  # noqa: B008  a frozen value
) -> list[Layer]:
    """Return the layers of a finalized record, base first, packing those that have no blob in the store.

    With `encoding.force` those that have one in another form are packed again.
    `elsewhere` returns a blob that will do as well for a layer, given its DiffID.
    """
    layers: list[Layer] = []
    chain_id: str | None = None
    is_known = True
    records = store.layers(record)
    if progress is not None:
        for one in records:
            if one.diff_id is None:
                progress(Progress("pack", one.id, 0, None))
    for one, in_place in zip(records, is_in_place(records, store.records.get), strict=True):
        descriptor, diff_id = _ensure_blob(store, one, progress, elsewhere, encoding)
        layers.append(Layer(descriptor, diff_id, one.created, one.description))
        own = store.records.get(one.id).diff_id
        is_known &= own is not None  # eStargz is an archive of its own, of which the record knows nothing
        if own is not None and is_known:
            chain_id = oci.chain_id(chain_id, own)
            if in_place and one.kind == "layer" and one.chain_id != chain_id:
                store.records.update(one.id, chain_id=chain_id)
    return layers


def _ensure_blob(
    store: Store,
    record: Record,
    progress: ProgressCallback | None,
    elsewhere: Callable[[str], Descriptor | None],
    encoding: Encoding,
) -> tuple[Descriptor, str]:
    is_estargz = encoding.compression is Compression.ESTARGZ
    with store.leases.locked(f"pack-{record.id}"):
        record = store.records.get(record.id)
        descriptor = encoding.best(store.layer_blobs(record))
        if descriptor is None and record.diff_id is not None and not encoding.force:
            descriptor = elsewhere(record.diff_id)
        if descriptor is not None and record.diff_id is not None:
            if encoding.fits(descriptor):
                return descriptor, record.diff_id
            if not is_estargz:
                return reencoded(store, (descriptor, record.diff_id), None, encoding, progress)
        packed = _pack(store, record, encoding, progress)
        if not is_estargz:
            store.records.update(record.id, diff_id=packed.diff_id)
        return packed.descriptor, packed.diff_id


def _pack(store: Store, record: Record, encoding: Encoding, progress: ProgressCallback | None) -> Packed:
    """Pack a layer's snapshot and keep the blob."""
    chain = store.own_chain(record)
    with store.driver.tree(chain) as tree, store.blobs.ingest() as ingest:
        entries = store.driver.changes(chain) if len(chain) > 1 else everything(tree)
        packed = pack(
            tree,
            entries,
            ingest.file,
            compression=encoding.compression,
            level=encoding.level,
            where=record.id,
            progress=progress,
        )
        store.blobs.keep(ingest, packed.descriptor, packed.diff_id, packed=True)
    return packed


def ensure_manifest(
    store: Store, record: Record, progress: ProgressCallback | None = None
) -> tuple[Descriptor, bytes, list[Layer]]:
    """Return the manifest of a finalized record's image and its layers; all its blobs are in the store then."""
    layers = ensure_layers(store, record, progress)
    config, config_descriptor, manifest, descriptor = make_image(layers)
    store.blobs.put(config, oci.CONFIG)
    store.tags.put_manifest(
        descriptor,
        manifest,
        [config_descriptor.digest, *(layer.descriptor.digest for layer in layers)],
        record=record.id,
    )
    return descriptor, manifest, layers


def push(
    store: Store,
    record: Record,
    remote: Remote,
    *,
    tag: str | None,
    encoding: Encoding = Encoding(),  # noqa: B008  a frozen value
    expected: Expected | None = None,
    progress: ProgressCallback | None = None,
) -> Pushed:
    """Copy a finalized record's image to `remote` and, last, tag it, if the tag is as `expected`.

    What is there already does not move, and if it is under the tag already that is asked once. Of a layer whose blob
    is not in the store the one that it came from will do, if the remote has it or can take it from where it was seen.
    Raises what the remote raises; a tag that was there before is then as it was.
    """
    sending = _Sending(store, remote, lambda blob: store.blobs.open(blob.digest), encoding.force, progress=progress)
    sending.look(tag)
    layers = ensure_layers(store, record, progress, sending.elsewhere, encoding)
    return sending.run(layers, tag, expected)


def push_layers(
    store: Store,
    layers: Sequence[RemoteLayer],
    blobs: BlobSource,
    remote: Remote,
    *,
    tag: str | None,
    encoding: Encoding = Encoding(),  # noqa: B008  a frozen value
    progress: ProgressCallback | None = None,
) -> Pushed:
    """Make an image at `remote` of layers that are elsewhere, and tag it.

    What the target can take from where the layers are, it does (a registry from another of its repositories, a
    bucket from another prefix); what is lacking then is copied through this machine, without being unpacked,
    unless `encoding` forces another form. Raises what either side raises.
    """
    blobs = HereFirst(store, blobs)
    found: list[Layer] = []
    for layer in layers:
        made = layer.descriptor, layer.diff_id
        if not encoding.fits(layer.descriptor):
            made = reencoded(store, made, blobs, encoding, progress)
        found.append(Layer(*made, 0, layer.source.image.name))
    there = {layer.descriptor.digest for layer in layers}
    near = {layer.descriptor.digest: layer.source.remote.name for layer in layers}

    def open_blob(blob: Descriptor) -> BinaryIO:
        if blob.digest not in there:
            return store.blobs.open(blob.digest)
        spool = cast("BinaryIO", tempfile.TemporaryFile(dir=store.root / "ingest"))  # noqa: SIM115  closed by whoever asked
        try:
            copy_blob(blobs, blob, spool, blob.digest)
            spool.seek(0)
        except BaseException:
            spool.close()
            raise
        return spool

    sending = _Sending(store, remote, open_blob, encoding.force, progress=progress, near=near, source=blobs)
    sending.look(tag)
    return sending.run(found, tag)


class _NotThere(Exception):
    """A blob could not be taken from where it was seen."""


class _Sending:
    """An image on its way to a remote."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        open_blob: Callable[[Descriptor], BinaryIO],
        ask_all: bool,
        *,
        progress: ProgressCallback | None,
        near: Mapping[str, str] | None = None,
        source: BlobSource | None = None,
    ) -> None:
        """Open blobs with `open_blob`, which reads from `source`; `near` are names of remotes by digests they have.

        With `ask_all` no manifest that is there is trusted to have its blobs.
        """
        self._store = store
        self._remote = remote
        self._open_blob = open_blob
        self._ask_all = ask_all
        self._near = near or {}
        self._progress = progress
        self._sources = [one for one in (remote, source) if one is not None]
        self._before = self._traffic()
        self._there = ""
        self._known: set[str] = set()
        """Blobs that the remote has for sure."""

    def _traffic(self) -> Traffic:
        return sum((one.traffic for one in self._sources), Traffic())

    def look(self, tag: str | None) -> None:
        """Take notice of what is under the tag: whatever that image has is there already."""
        if tag is not None and not self._ask_all:
            self._there = self._look(tag)

    def _look(self, target: str) -> str:
        """Return the digest of a manifest, "" if there is none or it is not whole; the blobs it has are known then."""
        with suppress(NotFound, Corrupt, UnknownMediaType):
            descriptor, data = self._remote.manifest(target)
            named = {blob.digest for blob in oci.decode(data, oci.Document, self._remote.name).blobs}
            gone = self._store.absences.at(self._remote.name) & named
            self._known |= named - gone
            return "" if gone else descriptor.digest
        return ""

    def elsewhere(self, diff_id: str) -> Descriptor | None:
        """Return a blob of a layer that the remote has, or takes from where it was seen; None if there is none."""
        for blob, place in self._store.places.of_layer(diff_id):
            if blob.digest in self._known or self._remote.has_blob(blob) or self._mount(blob, place):
                self._known.add(blob.digest)
                return blob
        return None

    def _mount(self, blob: Descriptor, place: str) -> bool:
        def refuse() -> BinaryIO:
            raise _NotThere

        if place == self._remote.name:  # which has just said that it has it no more
            return False
        try:
            self._remote.put_blob(blob, refuse, mount_from=place)
        except (_NotThere, Unauthorized):
            return False
        return True

    def run(self, layers: Sequence[Layer], tag: str | None, expected: Expected | None = None) -> Pushed:
        """Send the blobs that are lacking, the configuration, and last the manifest."""
        config, config_descriptor, manifest, descriptor = make_image(layers)
        blobs = {layer.descriptor.digest: layer.descriptor for layer in layers}
        blobs[config_descriptor.digest] = config_descriptor
        place = Reference.parse(self._remote.name)
        name = str(place.at(tag=tag) if tag else place.at(digest=descriptor.digest))
        lacking: list[Descriptor] = []
        if self._there != descriptor.digest or expected is not None:  # whether that holds is for the place to say
            if not self._ask_all and self._remote.name in self._store.places.of_blob(descriptor.digest):
                self._look(descriptor.digest)
            lacking = self._send([blob for digest, blob in blobs.items() if digest not in self._known], config)
            put = partial(self._remote.put_manifest, descriptor, manifest, tag=tag, expected=expected)
            try:
                put()
            except NotFound:  # a blob that another manifest names is there no more
                if self._known.isdisjoint(blobs):
                    raise
                lacking += self._send(list(blobs.values()), config)
                put()
        self._store.absences.back(self._remote.name, blobs)
        self._store.places.saw(
            self._remote.name,
            [*((layer.descriptor, layer.diff_id) for layer in layers), (descriptor, None)],
        )
        sent = sum(blob.digest != config_descriptor.digest for blob in lacking)
        return Pushed(name, descriptor.digest, len(layers), sent, self._traffic() - self._before)

    def _send(self, blobs: Sequence[Descriptor], config: bytes) -> list[Descriptor]:
        """Send those of `blobs` that are not there, and return them."""
        with _pool() as pool:
            present = list(pool.map(self._remote.has_blob, blobs))
            lacking = [blob for blob, is_there in zip(blobs, present, strict=True) if not is_there]
            for blob in lacking:
                self._tell(blob, 0)
            for upload in [pool.submit(self._upload, blob, config) for blob in lacking]:
                upload.result()
        return lacking

    def _tell(self, blob: Descriptor, done: int) -> None:
        if self._progress is not None:
            self._progress(Progress("push", blob.digest, done, blob.size))

    def _upload(self, blob: Descriptor, config: bytes) -> None:
        done = 0

        def sent(size: int) -> None:
            nonlocal done
            done += size
            self._tell(blob, min(done, blob.size))

        def open_blob() -> BinaryIO:
            nonlocal done
            done = 0
            return io.BytesIO(config) if blob.media_type == oci.CONFIG else self._open_blob(blob)

        seen = [place for place in self._store.places.of_blob(blob.digest) if place != self._remote.name]
        near = self._near.get(blob.digest) or next(iter(sorted(seen, key=self._distance)), None)
        self._remote.put_blob(blob, open_blob, sent, mount_from=near)
        self._tell(blob, blob.size)  # one that was mounted from another repository was not sent

    def _distance(self, place: str) -> int:
        """Return less for a place that has more in common with the remote's name."""
        return -len(os.path.commonpath([place, self._remote.name]))


@contextmanager
def _pool() -> Iterator[Workers]:
    """Yield a pool whose waiting work is dropped when the block fails."""
    with Workers(PARALLEL, "shipway-push") as pool:
        try:
            yield pool
        except BaseException:
            pool.stop()
            pool.shutdown(cancel_futures=True)
            raise
