"""Pull: layers in parallel, each verified and unpacked in one pass over its bytes.

A layer is written without waiting for those below it, unless it needs them or the
driver does; then its bytes are kept until they are there.

A layer that is in the store already, as a record of the same chain, is taken as it is; one whose blob is here is
unpacked from that; one much of whose contents is here is put together (`assemble`); the others are
fetched (`fetch`). Two that pull the same layer at a time, in one process or several, do it once: who comes
second waits for a lock named by the layer's chain.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from shipway import oci
from shipway.errors import Corrupt, NotFound, Unavailable
from shipway.explanations import LayerPulled, Way
from shipway.layers.unpack import unpack, unpack_archive
from shipway.local.blobs import Ingest
from shipway.local.rows import NewRecord, Record
from shipway.local.store import PIECE, Store
from shipway.oci import Descriptor
from shipway.progress import Progress, ProgressCallback
from shipway.remotes.contract import BlobSource, Elsewhere, until_right
from shipway.stopping import LOOK, Stopped, Workers
from shipway.transfer.assemble import Assembly, plan_assembly
from shipway.transfer.fetch import fetch, open_ingest
from shipway.trees.entry import Buffer, TreeSink

PARALLEL = 4


@dataclass(frozen=True, slots=True)
class PulledTree:
    """A tree that was pulled: its record, held once, and how each of its layers came here, base first."""

    record: Record
    layers: tuple[LayerPulled, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """What is the same for all layers of a pull."""

    store: Store
    remote: BlobSource | None
    new: NewRecord
    progress: ProgressCallback | None
    stop: threading.Event


@dataclass
class _Pull:
    """One layer on its way; `done` is set when `record` is, or cannot be."""

    task: _Task
    descriptor: Descriptor
    diff_id: str
    chain_id: str
    below: _Pull | None
    done: threading.Event = field(default_factory=threading.Event)
    record: Record | None = None
    moved: LayerPulled | None = None
    why: str = ""
    """Why its blob has to be fetched."""
    connections: int = 1
    total: int = field(init=False)
    """How many bytes are to come of it."""

    def __post_init__(self) -> None:
        self.total = self.descriptor.size

    def tell(self, done: int) -> None:
        """Tell whoever wants to know how many bytes have come."""
        if self.task.progress is not None:
            self.task.progress(Progress("pull", self.descriptor.digest, done, self.total))

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
) -> PulledTree:
    """Copy the tree that `layers` make, base first, into the store and return its record, held once.

    Layers whose blob is in the store already are not fetched; without a `remote`
    all must be. Raises what the remote raises, and `Corrupt` and its kinds for a
    layer that is not what the manifest says. Layers that had arrived whole by then
    stay, unused.
    """
    task = _Task(store, remote, NewRecord(description=f"pulled from {name}"), progress, threading.Event())
    pulls: list[_Pull] = []
    chain_ids = oci.chain_ids(diff_ids)
    for descriptor, diff_id, chain_id in zip(layers, diff_ids, chain_ids, strict=True):
        pulls.append(_Pull(task, descriptor, diff_id, chain_id, pulls[-1] if pulls else None))
    if not pulls:
        raise NotFound("the image has no layers", where=name)
    for one in pulls:
        one.tell(0)
    _run(task, pulls)
    records = [one.record for one in pulls if one.record is not None]
    for record in records[:-1]:
        store.drop_snapshots(store.records.release(record.id))
    store.after_commit()
    return PulledTree(records[-1], tuple(one.moved for one in pulls if one.moved is not None))


def _run(task: _Task, pulls: Sequence[_Pull]) -> None:
    """Pull all layers; on failure let go of those that came, and raise the first cause."""
    lacking = sum(task.store.records.of_chain(one.chain_id) is None for one in pulls)
    for one in pulls:
        one.connections = max(1, PARALLEL // max(1, lacking))

    with Workers(PARALLEL, "shipway-pull") as pool:

        def work(one: _Pull) -> None:
            try:
                if not task.stop.is_set():
                    one.record = _pull_layer(one)
                    one.tell(one.total)
            except BaseException:
                task.stop.set()
                pool.stop()
                raise
            finally:
                one.done.set()

        try:
            futures = [pool.submit(work, one) for one in pulls]
            while wait(futures, LOOK).not_done:
                pass
            errors = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:  # interrupted while waiting
            task.stop.set()
            pool.stop()
            pool.shutdown()
            _let_go(task.store, pulls)
            raise
    if errors:
        _let_go(task.store, pulls)
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])


def _let_go(store: Store, pulls: Sequence[_Pull]) -> None:
    for one in pulls:
        if one.record is not None:
            store.drop_snapshots(store.records.release(one.record.id))


def _pull_layer(one: _Pull) -> Record:
    """Return the held record of one layer."""
    store = one.task.store
    with store.leases.locked(f"chain-{one.chain_id.removeprefix('sha256:')}"):
        found = store.records.of_chain(one.chain_id)
        if found is not None:
            with suppress(NotFound):  # it may be pruned at this very moment; then pull it again
                record = store.records.hold_immutable(found.id)
                one.moved = _moved(one, Way.HERE, "it was here already, over the same layers")
                return record
        remote = one.task.remote
        blob = store.blobs.get(one.descriptor.digest)
        if blob is not None:
            try:
                with store.read_blob(blob) as pieces:
                    record = _unpack(one, pieces, None)
            except Corrupt:
                if remote is None:
                    raise
            else:
                one.moved = _moved(one, Way.UNPACKED, "its blob was here already")
                return record
        if remote is None:
            raise NotFound("no such blob in this store", where=one.descriptor.digest)
        return until_right(partial(_assembled, one, remote)) or _fetched(one, remote)


def _moved(one: _Pull, way: Way, reason: str, **figures: int) -> LayerPulled:
    return LayerPulled(one.descriptor.digest, one.diff_id, one.descriptor.size, way, reason, **figures)


def _assembled(one: _Pull, remote: BlobSource) -> Record | None:
    """Return the record of a layer that was put together, None if it has to be fetched.

    Raises `Elsewhere` if what was fetched for it was not right, and some other place may give it.
    """
    with ExitStack() as stack:
        try:
            assembly = plan_assembly(one.task.store, remote, one.descriptor, stack)
        except Elsewhere:
            raise
        except (Corrupt, Unavailable) as error:  # if it is really gone, fetching will say so
            one.why = f"its table of contents was of no use: {error.what}"
            return None
        if isinstance(assembly, str):
            one.why = assembly
            return None
        came = _Counter(one, assembly.total)
        try:
            record = _put_together(one, assembly, assembly.archive(stack, came.add))
        except Elsewhere:
            raise
        except Corrupt as error:
            one.why = f"it could not be put together: {error.what}"
            return None
        assembly.pack.discard()
        assembly.noted.save(one.task.store, record.id)
        one.moved = _moved(
            one,
            Way.ASSEMBLED,
            "most of its contents were here already",
            tables=assembly.tables,
            ranges=came.done,
            deduplicated=assembly.here,
        )
        return record


def _put_together(one: _Pull, assembly: Assembly, pieces: Iterator[Buffer]) -> Record:
    with _writing(one) as (key, sink):
        unpack_archive(
            pieces,
            one.descriptor,
            one.diff_id,
            sink,
            table=assembly.told,
            clones=assembly.supply,
            limits=one.task.store.limits,
        )
        below = one.below.wait() if one.below is not None else None
        sink.finish()
        return _add(one, key, below)


def _fetched(one: _Pull, remote: BlobSource) -> Record:
    """Return the record of a layer whose blob is fetched, on from what came of it before."""
    with open_ingest(one.task.store, one.descriptor) as ingest:
        while True:
            resumed = ingest.came
            came = _Counter(one, one.descriptor.size, resumed)
            record = None
            try:
                record = _fetch_into(one, remote, ingest, came)
            except Elsewhere:
                pass
            except Corrupt:
                if _is_whole(one, ingest):  # else it broke off, and what came may be right
                    ingest.begin_again()
                raise
            if record is not None:
                one.moved = _moved(one, Way.FETCHED, one.why, whole=came.done - resumed, resumed=resumed)
                return record
            ingest.begin_again()


def _is_whole(one: _Pull, ingest: Ingest) -> bool:
    return not ingest.kept and ingest.size() == one.descriptor.size  # it is longer while parts of it are lacking


def _fetch_into(one: _Pull, remote: BlobSource, ingest: Ingest, came: _Counter) -> Record | None:
    """Return the record of a layer; None if what came of it before may not be right, so that all has to come again."""
    resumed = ingest.came > 0
    with fetch(remote, one.descriptor, ingest, one.connections, came.add) as pieces:
        try:
            if one.below is None or one.below.done.is_set() or one.task.store.driver.apart:
                return _unpack(one, pieces, ingest)
            digest = hashlib.sha256()
            for piece in pieces:
                digest.update(piece)
            oci.check_size(ingest.size(), one.descriptor.size, one.descriptor.digest)
            oci.check_match(f"sha256:{digest.hexdigest()}", one.descriptor.digest, one.descriptor.digest)
        except Corrupt:
            if resumed and _is_whole(one, ingest):
                return None
            raise
    return _unpack(one, _reread(ingest), ingest)


def _unpack(one: _Pull, pieces: Iterator[Buffer], ingest: Ingest | None) -> Record:
    """Return the record of a layer whose blob is `pieces`, which is in `ingest` then, or in the store already.

    Of a blob that is fetched an index is made: once it is gone from here, reading it there takes ranges.
    """
    store, layer = one.task.store, one.descriptor
    index = ingest is not None and store.indexes.load(layer) is None
    with _writing(one) as (key, sink):
        unpacked = unpack(pieces, layer, one.diff_id, sink, limits=store.limits, index=index, where=layer.digest)
        below = one.below.wait() if one.below is not None else None
        sink.finish()
        if ingest is not None:
            store.blobs.keep(ingest, layer, one.diff_id)
        else:
            store.blobs.describe(layer, one.diff_id)
        if unpacked.index is not None:
            store.indexes.save(layer, unpacked.index)
        return _add(one, key, below)


@contextmanager
def _writing(one: _Pull) -> Iterator[tuple[str, TreeSink]]:
    """Yield a new snapshot's key and the sink that makes it; both are gone if the block fails."""
    store = one.task.store
    key = store.records.reserve_snapshot()

    def chain_below() -> list[str]:
        return store.snapshot_chain(one.below.wait()) if one.below is not None else []

    with (
        store.giving_up(key),
        store.driver.writer([key], below=chain_below if one.below is not None else None) as sink,
    ):
        yield key, sink


def _add(one: _Pull, key: str, below: Record | None) -> Record:
    return one.task.store.records.add(
        one.task.new,
        mutable=False,
        snapshot=key,
        parents=[below.id] if below is not None else [],
        diff_id=one.diff_id,
        chain_id=one.chain_id,
    )


def _reread(ingest: Ingest) -> Iterator[bytes]:
    ingest.file.seek(0)
    return iter(lambda: ingest.file.read(PIECE), b"")


class _Counter:
    """Counts the bytes of a layer that were fetched, tells of them, and stops when all is to stop. Thread-safe."""

    def __init__(self, one: _Pull, total: int, done: int = 0) -> None:
        self.done = done
        self._one = one
        one.total = total
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        if self._one.task.stop.is_set():
            raise Stopped("was given up", where=self._one.descriptor.digest)
        with self._lock:
            self.done += size
            self._one.tell(self.done)
