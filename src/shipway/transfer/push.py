"""Push: a record's layers, as blobs, to where they are lacking; the manifest last."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, cast

from shipway import oci
from shipway.layers.pack import pack
from shipway.local.blobs import disk_errors
from shipway.local.layering import is_in_place
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.refs import Pushed, Traffic
from shipway.remotes.contract import BlobSource, Remote
from shipway.transfer.images import Layer, make_image
from shipway.transfer.sources import RemoteLayer
from shipway.trees.diff import everything

PARALLEL = 4


def ensure_layers(store: Store, record: Record, progress: ProgressCallback | None = None) -> list[Layer]:
    """Return the layers of a finalized record, base first, packing those that have no blob in the store."""
    layers: list[Layer] = []
    chain_id: str | None = None
    records = store.layers(record)
    if progress is not None:
        for one in records:
            if store.layer_blob(one) is None:
                progress(Progress("pack", one.id, 0, None))
    for one, in_place in zip(records, is_in_place(records, store.records.get), strict=True):
        descriptor, diff_id = _ensure_blob(store, one, progress)
        chain_id = oci.chain_id(chain_id, diff_id)
        if in_place and one.kind == "layer" and one.chain_id != chain_id:
            store.records.update(one.id, chain_id=chain_id)
        layers.append(Layer(descriptor, diff_id, one.created, one.description))
    return layers


def _ensure_blob(store: Store, record: Record, progress: ProgressCallback | None) -> tuple[Descriptor, str]:
    with store.leases.locked(f"pack-{record.id}"):
        record = store.records.get(record.id)
        descriptor = store.layer_blob(record)
        if descriptor is not None and record.diff_id is not None:
            return descriptor, record.diff_id
        chain = store.own_chain(record)
        with store.driver.tree(chain) as tree, store.blobs.ingest() as ingest:
            entries = store.driver.changes(chain) if len(chain) > 1 else everything(tree)
            packed = pack(tree, entries, ingest.file, where=record.id, progress=progress)
            store.blobs.keep(ingest, packed.descriptor, packed.diff_id, packed=True)
        store.records.update(record.id, diff_id=packed.diff_id)
        return packed.descriptor, packed.diff_id


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
    store: Store, record: Record, remote: Remote, *, tag: str | None, progress: ProgressCallback | None = None
) -> Pushed:
    """Copy a finalized record's image to `remote` and, last, tag it.

    What is there already does not move. Raises what the remote raises; a tag
    that was there before is then as it was.
    """
    before = remote.traffic
    _, _, layers = ensure_manifest(store, record, progress)
    sending = _Sending(remote, lambda blob: store.blobs.open(blob.digest), {}, progress)
    return sending.run(layers, tag, lambda: remote.traffic - before)


def push_layers(
    store: Store,
    layers: Sequence[RemoteLayer],
    blobs: BlobSource,
    remote: Remote,
    *,
    tag: str | None,
    progress: ProgressCallback | None = None,
) -> Pushed:
    """Make an image at `remote` of layers that are elsewhere, and tag it.

    What the target can take from where the layers are, it does (a registry from another of its repositories, a
    bucket from another prefix); what is lacking then is copied through this machine, without being unpacked.
    Raises what either side raises.
    """
    before, before_there = remote.traffic, blobs.traffic
    found = [Layer(layer.descriptor, layer.diff_id, 0, layer.source.image.name) for layer in layers]
    near = {layer.descriptor.digest: layer.source.remote.name for layer in layers}

    def open_blob(blob: Descriptor) -> BinaryIO:
        spool = cast("BinaryIO", tempfile.TemporaryFile(dir=store.root / "ingest"))  # noqa: SIM115  closed by whoever asked
        try:
            with disk_errors(blob.digest), blobs.read_blob(blob) as pieces:
                digest = hashlib.sha256()
                for piece in pieces:
                    digest.update(piece)
                    spool.write(piece)
            oci.check_match("sha256:" + digest.hexdigest(), blob.digest, blob.digest)
            spool.seek(0)
        except BaseException:
            spool.close()
            raise
        return spool

    sending = _Sending(remote, open_blob, near, progress)
    return sending.run(found, tag, lambda: (remote.traffic - before) + (blobs.traffic - before_there))


class _Sending:
    """An image on its way to a remote."""

    def __init__(
        self,
        remote: Remote,
        open_blob: Callable[[Descriptor], BinaryIO],
        near: Mapping[str, str],
        progress: ProgressCallback | None,
    ) -> None:
        """Open blobs with `open_blob`; `near` are names of remotes by the digests that they have."""
        self._remote = remote
        self._open_blob = open_blob
        self._near = near
        self._progress = progress

    def run(self, layers: Sequence[Layer], tag: str | None, moved: Callable[[], Traffic]) -> Pushed:
        """Send the blobs that are lacking, the configuration, and last the manifest."""
        config, config_descriptor, manifest, descriptor = make_image(layers)
        blobs = {layer.descriptor.digest: layer.descriptor for layer in layers}
        blobs[config_descriptor.digest] = config_descriptor
        with _pool() as pool:
            present = dict(zip(blobs, pool.map(self._remote.has_blob, blobs.values()), strict=True))
            lacking = [blob for digest, blob in blobs.items() if not present[digest]]
            for blob in lacking:
                self._tell(blob, 0)
            for upload in [pool.submit(self._upload, blob, config) for blob in lacking]:
                upload.result()
        self._remote.put_manifest(descriptor, manifest, tag=tag)
        name = f"{self._remote.name}:{tag}" if tag else f"{self._remote.name}@{descriptor.digest}"
        sent = sum(blob.digest != config_descriptor.digest for blob in lacking)
        return Pushed(name, descriptor.digest, len(layers), sent, moved())

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

        self._remote.put_blob(blob, open_blob, sent, mount_from=self._near.get(blob.digest))
        self._tell(blob, blob.size)  # one that was mounted from another repository was not sent


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose waiting work is dropped when the block fails."""
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="shipway-push")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
