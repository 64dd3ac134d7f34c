"""Push: a record's layers, as blobs, to where they are lacking; the manifest last."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

from shipway import oci
from shipway.layers.pack import pack
from shipway.local.layering import is_in_place
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.refs import Pushed
from shipway.remotes.contract import Remote
from shipway.transfer.images import Layer, make_image

PARALLEL = 4


def ensure_layers(store: Store, record: Record, progress: ProgressCallback | None = None) -> list[Layer]:
    """Return the layers of a finalized record, base first, packing those that have no blob in the store."""
    layers: list[Layer] = []
    chain_id: str | None = None
    records = store.layers(record)
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
        entries = store.driver.changes(chain)
        with store.driver.tree(chain) as tree, store.blobs.ingest() as ingest:
            packed = pack(tree, entries, ingest.file, where=record.id, progress=progress)
            store.blobs.keep(ingest, packed.descriptor, packed.diff_id)
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
    descriptor, manifest, layers = ensure_manifest(store, record, progress)
    blobs = {layer.descriptor.digest: layer.descriptor for layer in layers}
    config = oci.decode(manifest, oci.Manifest, descriptor.digest).config
    with _pool() as pool:
        present = dict(zip(blobs, pool.map(remote.has_blob, blobs.values()), strict=True))
        lacking = [blob for digest, blob in blobs.items() if not present[digest]]
        uploads = [pool.submit(_upload, store, remote, blob, progress) for blob in (*lacking, config)]
        for upload in uploads:
            upload.result()
    remote.put_manifest(descriptor, manifest, tag=tag)
    name = f"{remote.name}:{tag}" if tag else f"{remote.name}@{descriptor.digest}"
    return Pushed(name, descriptor.digest, len(layers), len(lacking), remote.traffic - before)


def _upload(store: Store, remote: Remote, blob: Descriptor, progress: ProgressCallback | None) -> None:
    if blob.media_type == oci.CONFIG and remote.has_blob(blob):
        return
    done = 0

    def sent(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(Progress("push", blob.digest, min(done, blob.size), blob.size))

    def open_blob() -> BinaryIO:
        nonlocal done
        done = 0
        return store.blobs.open(blob.digest)

    remote.put_blob(blob, open_blob, sent)


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose waiting work is dropped when the block fails."""
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="shipway-push")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
