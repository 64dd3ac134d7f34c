"""Which contents the snapshots of a store have, by digest: so that what is here is not fetched again.

A layer's table of contents says what its files, and the chunks of large ones, hash to. Of each layer there is
one row: the digests, shortened, and where each content is. It is made when somebody first looks for contents,
from the table in the layer's blob, or before that blob is pruned; so pulling and packing do not pay for it, 30,000
files take 0.3 MB, and the row goes with its record. Layers that never had a table are not listed.

Nothing of this is trusted: files of a snapshot may be damaged, so who takes a content checks it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import msgspec
import zstandard

from shipway.errors import NotFound, ShipwayError
from shipway.layers.formats import contents_of
from shipway.local.digests import matching, prefix
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.trees.entry import Entry

MOST = 4_000_000
"""Contents that are looked through at most, those of the newest layers."""
_places = msgspec.msgpack.Decoder(tuple[list[bytes], bytes])


class Place(NamedTuple):
    """Where a content is: bytes of a file of a record's snapshot, from `start` on, or the `whole` of it."""

    record: str
    path: str
    start: int
    whole: bool


def learn(store: Store, record_id: str, entries: Iterable[Entry]) -> None:
    """Remember where in a record's snapshot the contents of its layer's `entries` are."""
    digests, numbers = array("Q"), array("Q")
    paths: list[bytes] = []
    for entry in entries:
        if not entry.size or entry.kind != "reg":
            continue
        number = len(paths)
        paths.append(os.fsencode(entry.path))
        if entry.digest:
            digests.append(prefix(entry.digest))
            numbers.extend((2 * number + 1, 0))
        for chunk in entry.chunks:
            if chunk.digest and chunk.digest != entry.digest:
                digests.append(prefix(chunk.digest))
                numbers.extend((2 * number, chunk.start))
    places = zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode((paths, numbers.tobytes())))
    with store.database.write() as db:
        db.execute(
            "INSERT OR REPLACE INTO contents SELECT id, ?, ? FROM records WHERE id = ?",
            (digests.tobytes(), places, record_id),
        )


def learn_blob(store: Store, blob: Descriptor) -> None:
    """Remember the contents of the layer that a blob of the store holds, for each record that has it.

    Does nothing for one without a table of contents, or that cannot be read.
    """
    records = store.database.read(
        "SELECT records.id FROM records JOIN blobs USING (diff_id) WHERE blobs.digest = ? AND records.kind = 'layer'"
        " AND NOT mutable AND twin IS NULL AND id NOT IN (SELECT record FROM contents)",
        blob.digest,
    )
    if records and (entries := _listed(store, blob)):
        for (record_id,) in records:
            learn(store, record_id, entries)


def _listed(store: Store, blob: Descriptor) -> Sequence[Entry]:
    try:
        contents = contents_of(blob)
        if contents is None:
            return ()
        with store.blobs.open(blob.digest) as file:
            table = contents.fetch(lambda offset, length: os.pread(file.fileno(), length, offset), blob.digest)
            return list(contents.parse(table, blob.digest))
    except (ShipwayError, OSError):  # `verify` says so; here it is just of no use
        return ()


@contextmanager
def known_contents(store: Store, digests: Iterable[str], *, learning: bool = True) -> Iterator[dict[str, Place]]:
    """Yield where those of `digests` are that the snapshots of the store have, which are held meanwhile.

    Without `learning` only layers count of which it is known already what they have.
    """
    wanted = {prefix(digest): digest for digest in digests}
    found: dict[str, Place] = {}
    with ExitStack() as stack:
        looked = 0
        for record_id, known in _lists(store, learning=learning) if wanted else ():
            hits = [(key, index) for key, index in matching(wanted, known) if wanted[key] not in found]
            looked += len(known) // 8
            if hits and _hold(store, record_id, stack):
                for key, place in _placed(store, record_id, hits):
                    found[wanted[key]] = place
            if looked > MOST or len(found) == len(wanted):
                break
        yield found


def has_contents(store: Store) -> bool:
    """Whether there is any snapshot whose contents are, or can be, known."""
    rows = store.database.read(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM contents) OR EXISTS"
        " (SELECT 1 FROM records JOIN blobs USING (diff_id) WHERE NOT mutable)"
    )
    return bool(rows)


def _lists(store: Store, *, learning: bool) -> Iterator[tuple[str, bytes]]:
    """Yield each layer's digests, the newest layers first."""
    if learning:
        _learn_all(store)
    rows = store.database.read("SELECT record FROM contents JOIN records ON id = record ORDER BY created DESC")
    for (record_id,) in rows:
        for (known,) in store.database.read("SELECT digests FROM contents WHERE record = ?", record_id):
            yield record_id, known


def _learn_all(store: Store) -> None:
    """Look into the blobs that were not looked into yet."""
    with store.leases.locked("contents"):  # several look at a time, and one of them has to learn
        blobs = store.database.read(
            "SELECT DISTINCT blobs.digest FROM records JOIN blobs USING (diff_id)"
            " WHERE NOT mutable AND id NOT IN (SELECT record FROM contents)"
        )
        for (digest,) in blobs:
            blob = store.blobs.get(digest)
            if blob is not None:
                learn_blob(store, blob)


def _hold(store: Store, record_id: str, stack: ExitStack) -> bool:
    try:
        store.records.hold_immutable(record_id)
    except NotFound:  # pruned at this moment
        return False
    stack.callback(store.holds.let_go, record_id)
    return True


def _placed(store: Store, record_id: str, hits: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Place]]:
    for (data,) in store.database.read("SELECT places FROM contents WHERE record = ?", record_id):
        paths, raw = _places.decode(zstandard.ZstdDecompressor().decompress(data))
        numbers = array("Q")
        numbers.frombytes(raw)
        for key, index in hits:
            number, start = numbers[2 * index], numbers[2 * index + 1]
            yield key, Place(record_id, os.fsdecode(paths[number // 2]), start, bool(number % 2))
