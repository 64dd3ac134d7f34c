"""Whether a record's snapshot is what its layer says, and making it again where it is not.

A layer's DiffID is a function of two trees where it was packed here, so packing its changes once more, to
nowhere, shows whether they are the same. What others packed may be written in another way: then the blob is
unpacked beside the snapshot, and the two are compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from shipway.errors import NotFound, ShipwayError
from shipway.layers.compression import Compression
from shipway.layers.pack import pack
from shipway.layers.unpack import unpack
from shipway.local.findings import Findings, proves_damage
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.trees.diff import changes
from shipway.trees.entry import Content, Entry, LocalTree, TreeSink

_DERIVED = "SELECT id FROM records WHERE exact IS NOT NULL OR (kind = 'diff' AND snapshot IS NOT NULL)"
_NOTHING = Entry(path="", kind="whiteout")


class Damage(NamedTuple):
    """The digests of damaged blobs, and the DiffIDs of those among them that were packed here."""

    digests: set[str]
    packed: set[str]


def verify_layer(store: Store, findings: Findings, record: Record, damaged: Damage) -> str:
    """Check a held, finalized record's own layer; return why the record has to be dropped, or "".

    `damaged` says which blobs are not to be relied on.
    """
    if record.kind == "merge":
        return ""
    if record.kind == "diff":
        _verify_derived(store, findings, record, damaged)
        return ""
    assert record.snapshot is not None
    try:
        below = store.own_chain(record)[:-1]
    except ShipwayError as error:
        if not proves_damage(error):
            raise
        return "" if not findings.repair else f"what it stands on cannot be read: {error.what}"
    chain = [*below, record.snapshot]
    wrong = _wrong(store, record, chain, damaged)
    if wrong:
        blob = _sound_blob(store, record, damaged)
        if blob is None:
            return wrong
        findings.add(
            "snapshot",
            record.id,
            wrong,
            "it was made again of its layer's blob",
            lambda: _remake(store, record, chain, blob),
        )
    _verify_exact(store, findings, record, below)
    return ""


def _wrong(store: Store, record: Record, chain: list[str], damaged: Damage) -> str:
    """Return what is wrong with a layer's snapshot, or ""."""
    try:
        if not store.driver.is_committed(chain[-1]):
            store.driver.commit(chain[-1])
        diff_id = packed_diff_id(store, chain)
    except NotFound as error:
        return f"its snapshot is missing: {error.what}"
    except (ShipwayError, OSError) as error:
        if not proves_damage(error):
            raise
        return f"its snapshot cannot be read: {error}"
    if record.diff_id in (None, diff_id):
        return ""
    blob = _sound_blob(store, record, damaged)
    if blob is not None:
        return "its files are not those of its layer" if _differs(store, chain, blob, record) else ""
    if record.diff_id in damaged.packed:
        return f"its files have the DiffID {diff_id}, not {record.diff_id}"
    return ""  # others may have packed it in another way, and there is nothing left to compare it with


def packed_diff_id(store: Store, chain: Sequence[str]) -> str:
    """Return the DiffID of what the last of a chain changes, all of which is read."""
    entries = store.driver.changes(chain)
    with store.driver.tree(chain) as tree, open(os.devnull, "wb", buffering=0) as nowhere:
        return pack(tree, entries, nowhere, compression=Compression.UNCOMPRESSED, where=chain[-1]).diff_id


def _sound_blob(store: Store, record: Record, damaged: Damage) -> Descriptor | None:
    for blob in store.blobs.of_layer(record.diff_id) if record.diff_id else ():
        if blob.digest not in damaged.digests and store.blobs.path(blob.digest).exists():
            return blob
    return None


def _unpacked(store: Store, record: Record, below: Sequence[str], blob: Descriptor) -> tuple[str, set[str]]:
    """Make a layer's snapshot of its blob, under a reserved key; return that and the paths the layer has."""
    key = store.records.reserve_snapshot()
    with store.giving_up(key), store.read_blob(blob) as pieces, store.driver.writer([*below, key]) as sink:
        noting = _Noting(sink)
        unpack(pieces, blob, record.diff_id, noting, where=blob.digest)
        noting.finish()
    return key, noting.paths


def _differs(store: Store, chain: list[str], blob: Descriptor, record: Record) -> bool:
    """Whether a snapshot's tree is another than what its layer's blob makes."""
    key, paths = _unpacked(store, record, chain[:-1], blob)
    try:
        with store.driver.tree(chain) as old, store.driver.tree([*chain[:-1], key]) as new:
            # A directory that the layer takes for granted is as whoever unpacks it makes it.
            return any(entry.kind != "dir" or entry.path in paths for entry in _changed(old, new))
    finally:
        store.driver.remove(key)
        store.records.forget_snapshot(key)


def _changed(old: LocalTree, new: LocalTree) -> list[Entry]:
    """Return what is different, without the directories above it that are not."""
    return [
        entry
        for entry in changes(old, new)
        if entry.kind != "dir" or msgspec.structs.replace(old.get(entry.path) or _NOTHING, inode=0) != entry
    ]


def _remake(store: Store, record: Record, chain: list[str], blob: Descriptor) -> None:
    key, _ = _unpacked(store, record, chain[:-1], blob)
    with store.giving_up(key):
        store.driver.replace(chain[-1], key)
    store.records.forget_snapshot(key)
    for (one,) in store.database.listed(_DERIVED):  # others may hold links to the very files that were damaged
        other = store.records.find(one)
        if other is not None and (not store.holds.is_held(one) or one == record.id):
            _forget_derived(store, other)


def _forget_derived(store: Store, record: Record) -> None:
    """Remove what was made of other snapshots; it is made anew when somebody looks."""
    keys = {record.exact} if record.exact != record.snapshot else set()
    if record.kind == "diff":
        keys.add(record.snapshot)
        store.records.update(record.id, snapshot=None, exact=None)
    elif record.exact is not None:
        store.records.update(record.id, exact=None)
    store.drop_snapshots([key for key in keys if key])


def _verify_derived(store: Store, findings: Findings, record: Record, damaged: Damage) -> None:
    """Check a diff's snapshot, which was made of its inputs and can be made again."""
    if record.snapshot is None:
        return
    try:
        wrong = _wrong(store, record, store.own_chain(record), damaged)
    except ShipwayError as error:
        if not proves_damage(error):
            raise
        wrong = f"cannot be read: {error.what}"
    if wrong:
        how = "it is made again when somebody looks"
        findings.add("snapshot", record.id, wrong, how, lambda: _forget_derived(store, record))


def _verify_exact(store: Store, findings: Findings, record: Record, below: list[str]) -> None:
    """Check the snapshot of just what a layer changes, if there is one of its own."""
    if not record.exact or record.exact == record.snapshot or store.records.get(record.id).exact is None:
        return
    assert record.snapshot is not None
    try:
        with store.driver.tree([*below, record.snapshot]) as own, store.driver.tree([*below, record.exact]) as exact:
            wrong = "its separated files differ from its own" if _changed(own, exact) else ""
    except (ShipwayError, OSError) as error:
        if not proves_damage(error):
            raise
        wrong = f"its separated files cannot be read: {error}"
    if wrong:
        how = "they are made again when somebody looks"
        findings.add("snapshot", record.id, wrong, how, lambda: _forget_derived(store, record))


class _Noting:
    """A sink that remembers the paths it was given."""

    def __init__(self, sink: TreeSink) -> None:
        self.paths: set[str] = set()
        self._sink = sink

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Hand it on."""
        self.paths.add(entry.path)
        self._sink.add(entry, content)

    def finish(self) -> None:
        """Hand it on."""
        self._sink.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._sink.__exit__(kind, error, trace)
