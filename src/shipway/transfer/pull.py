"""Pull: layers in parallel, each verified and unpacked in one pass over its bytes.

A layer is written without waiting for those below it, unless it needs them or the
driver does; then its bytes are kept until they are there.

A layer that is in the store already, as a record of the same chain, is
taken as it is; one whose blob is here is unpacked from that. Two that
pull the same layer at a time, in one process or several, do it once: who comes second waits for a
lock named by the layer's chain.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from shipway import oci
from shipway.errors import NotFound, ShipwayError
from shipway.layers.unpack import unpack
from shipway.local.blobs import Ingest
from shipway.local.rows import NewRecord, Record
from shipway.local.store import PIECE, Store
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.remotes.contract import BlobSource

PARALLEL = 4


class Stopped(ShipwayError):
    """A layer was not pulled because one below it could not be."""


@dataclass
class _Pull:
    """One layer on its way; `done` is set when `record`, or `failed`, is."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    below: _Pull | None
    stop: threading.Event
    done: threading.Event = field(default_factory=threading.Event)
    record: Record | None = None

    def wait(self) -> Record:
        """Return the layer's record once it is there."""
        self.done.wait()
        if self.record is None:
            raise Stopped("could not be pulled", where=self.descriptor.digest)
        return self.record


def pull(
    store: Store,
    name: str,
    layers: Sequence[Descriptor],
    diff_ids: Sequence[str],
    *,
    remote: BlobSource | None,
    progress: ProgressCallback | None = None,
) -> Record:
    """Copy the tree that `layers` make, base first, into the store and return its record, held once.

    Layers whose blob is in the store already are not fetched; without a `remote`
    all must be. Raises what the remote raises, and `Corrupt` and its kinds for a
    layer that is not what the manifest says. Layers that had arrived whole by then
    stay, unused.
    """
    stop = threading.Event()
    pulls: list[_Pull] = []
    chain_ids = oci.chain_ids(diff_ids)
    for descriptor, diff_id, chain_id in zip(layers, diff_ids, chain_ids, strict=True):
        pulls.append(_Pull(descriptor, diff_id, chain_id, pulls[-1] if pulls else None, stop))
    if not pulls:
        raise NotFound("the image has no layers", where=name)
    new = NewRecord(description=f"pulled from {name}")
    _run(store, remote, pulls, new, progress)
    records = [one.record for one in pulls if one.record is not None]
    for record in records[:-1]:
        store.drop_snapshots(store.records.release(record.id))
    return records[-1]


def _run(
    store: Store, remote: BlobSource | None, pulls: Sequence[_Pull], new: NewRecord, progress: ProgressCallback | None
) -> None:
    """Pull all layers; on failure let go of those that came, and raise the first cause."""

    def work(one: _Pull) -> None:
        try:
            if not one.stop.is_set():
                one.record = _pull_layer(store, remote, one, new, progress)
        except BaseException:
            one.stop.set()
            raise
        finally:
            one.done.set()

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="shipway-pull") as pool:
        futures = [pool.submit(work, one) for one in pulls]
        try:
            errors = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:  # interrupted while waiting
            for one in pulls:
                one.stop.set()
            pool.shutdown(wait=True, cancel_futures=False)
            _let_go(store, pulls)
            raise
    if errors:
        _let_go(store, pulls)
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])


def _let_go(store: Store, pulls: Sequence[_Pull]) -> None:
    for one in pulls:
        if one.record is not None:
            store.drop_snapshots(store.records.release(one.record.id))


def _pull_layer(
    store: Store, remote: BlobSource | None, one: _Pull, new: NewRecord, progress: ProgressCallback | None
) -> Record:
    """Return the held record of one layer."""
    with store.leases.locked(f"chain-{one.chain_id.removeprefix('sha256:')}"):
        found = store.records.of_chain(one.chain_id)
        if found is not None:
            with suppress(NotFound):  # it may be pruned at this very moment; then pull it again
                return store.records.hold_immutable(found.id)
        blob = store.blobs.get(one.descriptor.digest)
        with store.blobs.ingest() as ingest:
            if blob is not None:
                with store.read_blob(blob) as pieces:
                    return _unpack(store, one, pieces, None, new)
            if remote is None:
                raise NotFound("no such blob in this store", where=one.descriptor.digest)
            with remote.read_blob(one.descriptor) as pieces:
                counted = _counted(pieces, one, progress)
                if one.below is None or one.below.done.is_set() or store.driver.apart:
                    return _unpack(store, one, counted, ingest, new)
                _download(counted, ingest, one.descriptor)
            return _unpack(store, one, _reread(ingest), ingest, new, downloaded=True)


def _unpack(
    store: Store,
    one: _Pull,
    pieces: Iterator[bytes | memoryview],
    ingest: Ingest | None,
    new: NewRecord,
    *,
    downloaded: bool = False,
) -> Record:
    key = store.records.reserve_snapshot()
    with store.giving_up(key):
        keep = None if ingest is None or downloaded else ingest.file

        def chain_below() -> list[str]:
            return store.snapshot_chain(one.below.wait()) if one.below is not None else []

        with store.driver.writer([key], below=chain_below if one.below is not None else None) as sink:
            unpack(
                pieces,
                one.descriptor,
                one.diff_id,
                sink,
                keep=keep,
                limits=store.limits,
                where=one.descriptor.digest,
            )
            below = one.below.wait() if one.below is not None else None
            sink.finish()
        if ingest is not None:
            store.blobs.keep(ingest, one.descriptor, one.diff_id)
        else:
            store.blobs.describe(one.descriptor, one.diff_id)
        return store.records.add(
            new,
            mutable=False,
            snapshot=key,
            parents=[below.id] if below is not None else [],
            diff_id=one.diff_id,
            chain_id=one.chain_id,
        )


def _download(pieces: Iterator[bytes | memoryview], ingest: Ingest, descriptor: Descriptor) -> None:
    for piece in pieces:
        ingest.write(piece)
    oci.check_size(ingest.size(), descriptor.size, descriptor.digest)
    ingest.check(descriptor.digest)


def _reread(ingest: Ingest) -> Iterator[bytes]:
    ingest.file.seek(0)
    return iter(lambda: ingest.file.read(PIECE), b"")


def _counted(
    pieces: Iterator[bytes | memoryview], one: _Pull, progress: ProgressCallback | None
) -> Iterator[bytes | memoryview]:
    done = 0
    for piece in pieces:
        if one.stop.is_set():
            raise Stopped("was given up", where=one.descriptor.digest)
        done += len(piece)
        if progress is not None:
            progress(Progress("pull", one.descriptor.digest, done, one.descriptor.size))
        yield piece
