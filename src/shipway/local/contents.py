"""Which contents the snapshots of a store have, by digest: so that what is here is not fetched again.

A layer's table of contents says what its files, and the chunks of large ones, hash to. Of each layer there is
one row: the digests, shortened, and where each content is. It is made when somebody first looks for contents,
from the table in the layer's blob, or before that blob is pruned; so pulling and packing do not pay for it, 30,000
files take 0.3 MB, and the row goes with its record. Layers that never had a table are not listed. Places are in
blocks, each compressed, so that few of them are in memory at a time.

Nothing of this is trusted: files of a snapshot may be damaged, so who takes a content checks it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self, TypeVar

import msgspec
import zstandard

from shipway.errors import NotFound, ShipwayError
from shipway.layers.chunked import SKIPPABLE, SKIPPABLE_MAGIC, skippable
from shipway.layers.formats import contents_of
from shipway.local.digests import matching, prefix, prefixes
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Entry

MOST = 4_000_000
"""Contents that are looked through at most, those of the newest layers."""
BLOCK = 1024
"""Contents whose places are compressed together."""
_CACHED = 64
"""Blocks that are in memory at a time, and layers whose blocks are, compressed."""
_LAYER = 40
"""Bits of a content's number that say which it is in its layer's list; those above say which layer."""
_INDEX = (1 << _LAYER) - 1
_Block = tuple[list[bytes], "array[int]"]
K = TypeVar("K")
V = TypeVar("V")
_places = msgspec.msgpack.Decoder(tuple[list[bytes], bytes])


class Place(NamedTuple):
    """Where a content is: bytes of a file of a record's snapshot, from `start` on, or the `whole` of it."""

    record: str
    path: str
    start: int
    whole: bool


class Noted:
    """Where the contents of a layer are, noted while its entries pass by."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self._digests = array("Q")
        self._paths: list[bytes] = []
        self._numbers = array("Q")
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._frames = bytearray()
        self._ends = array("Q")

    def add(self, entry: Entry) -> None:
        """Take the next entry."""
        if not entry.size or entry.kind != "reg":
            return
        self._paths.append(os.fsencode(entry.path))
        if entry.digest:
            self._note(entry.digest, 0, whole=True)
        for chunk in entry.chunks:
            if chunk.digest and chunk.digest != entry.digest:
                self._note(chunk.digest, chunk.start, whole=False)

    def _note(self, digest: str, start: int, *, whole: bool) -> None:
        self._digests.append(prefix(digest))
        self._numbers.extend((2 * (len(self._paths) - 1) + whole, start))
        if len(self._numbers) == 2 * BLOCK:
            self._end_block()

    def _end_block(self) -> None:
        self._frames += self._compressor.compress(msgspec.msgpack.encode((self._paths, self._numbers.tobytes())))
        self._ends.append(len(self._frames))
        self._paths, self._numbers = self._paths[-1:], array("Q")  # the last file may have more chunks

    def save(self, store: Store, record_id: str) -> None:
        """Remember all that was noted as that of a record's snapshot; nothing more may be added."""
        if self._numbers:
            self._end_block()
        ends = self._ends.tobytes()
        places = b"".join((skippable(len(ends)), ends, self._frames))
        with store.database.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO contents SELECT id, ?, ? FROM records WHERE id = ?",
                (self._digests.tobytes(), places, record_id),
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
    if records and (noted := _noted(store, blob)):
        for (record_id,) in records:
            noted.save(store, record_id)


def _noted(store: Store, blob: Descriptor) -> Noted | None:
    try:
        contents = contents_of(blob)
        if contents is None:
            return None
        with store.blobs.open(blob.digest) as file:
            table = contents.fetch(lambda offset, length: os.pread(file.fileno(), length, offset), blob.digest)
        noted = Noted()
        for entry in contents.entries(table, blob.digest):
            noted.add(entry)
    except (ShipwayError, OSError):  # `verify` says so; here it is just of no use
        return None
    return noted


class Known:
    """The contents of a store's snapshots. Each has a number, from 1 on, by which its place is found later.

    Records that have any of those that were found are held.
    """

    def __init__(self, store: Store, stack: ExitStack, *, learning: bool = True) -> None:
        """Look in `store`; what is held is let go when `stack` is closed.

        Without `learning` only layers count of which it is known already what they have.
        """
        if learning:
            _learn_all(store)
        rows = store.database.read("SELECT record FROM contents JOIN records ON id = record ORDER BY created DESC")
        self._store = store
        self._stack = stack
        self._records: list[str] = [record_id for (record_id,) in rows]
        self._held: set[str] = set()
        self._layers: dict[str, _Layer] = {}
        self._blocks: dict[tuple[str, int], _Block] = {}

    def find(self, wanted: Collection[int]) -> dict[int, int]:
        """Return the numbers of those of `wanted`, beginnings of digests (`prefix`), that are here."""
        found: dict[int, int] = {}
        left = set(wanted)
        looked = 0
        for layer, record_id in enumerate(self._records, 1):
            if not left or looked > MOST:
                break
            for (known,) in self._store.database.read("SELECT digests FROM contents WHERE record = ?", record_id):
                looked += len(known) // 8
                hits = dict(matching(left, known))
                if hits and self._hold(record_id):
                    left -= hits.keys()
                    found.update((key, layer << _LAYER | index) for key, index in hits.items())
        return found

    def _hold(self, record_id: str) -> bool:
        if record_id not in self._held:
            try:
                self._store.records.hold_immutable(record_id)
            except NotFound:  # pruned at this moment
                return False
            self._stack.callback(self._store.holds.let_go, record_id)
            self._held.add(record_id)
        return True

    def place(self, number: int) -> Place | None:
        """Return where the content with a number is; None if somebody has noted other things since."""
        record_id, index = self._records[(number >> _LAYER) - 1], number & _INDEX
        layer = self._layers.get(record_id) or _put(self._layers, record_id, self._layer(record_id))
        block, index = divmod(index, layer.block)
        if block >= len(layer.ends):
            return None
        at = record_id, block
        paths, numbers = self._blocks.get(at) or _put(self._blocks, at, layer.read(block))
        if 2 * index >= len(numbers):
            return None
        path, whole = divmod(numbers[2 * index], 2)
        return Place(record_id, os.fsdecode(paths[path]), numbers[2 * index + 1], bool(whole))

    def _layer(self, record_id: str) -> _Layer:
        for (data,) in self._store.database.read("SELECT places FROM contents WHERE record = ?", record_id):
            return _Layer.of(data)
        return _Layer(b"", array("Q"), BLOCK)


class _Layer(NamedTuple):
    """Where the contents of a layer are: compressed blocks, where each ends, how many contents are in one."""

    frames: Buffer
    ends: array[int]
    block: int

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return what was noted of a layer; formerly that was one block."""
        magic, size = SKIPPABLE.unpack_from(data)
        if magic != SKIPPABLE_MAGIC:
            return cls(data, array("Q", [len(data)]), 1 << _LAYER)
        start = SKIPPABLE.size + size
        return cls(memoryview(data)[start:], prefixes(data[SKIPPABLE.size : start]), BLOCK)

    def read(self, block: int) -> _Block:
        """Return the paths in a block and, for each content, two numbers."""
        start = self.ends[block - 1] if block else 0
        data = zstandard.ZstdDecompressor().decompress(self.frames[start : self.ends[block]])
        paths, numbers = _places.decode(data)
        return paths, prefixes(numbers)


def _put(cache: dict[K, V], key: K, value: V) -> V:
    """Let a cache have a value, which it returns; of too many the one goes that it has had for longest."""
    if len(cache) >= _CACHED:
        del cache[next(iter(cache))]
    cache[key] = value
    return value


@contextmanager
def known_contents(store: Store, digests: Iterable[str], *, learning: bool = True) -> Iterator[dict[str, Place]]:
    """Yield where those of `digests` are that the snapshots of the store have, which are held meanwhile.

    Without `learning` only layers count of which it is known already what they have.
    """
    wanted = {prefix(digest): digest for digest in digests}
    with ExitStack() as stack:
        known = Known(store, stack, learning=learning) if wanted else None
        places = (
            {wanted[key]: known.place(number) for key, number in known.find(wanted).items()}
            if known is not None
            else {}
        )
        yield {digest: place for digest, place in places.items() if place is not None}


def has_contents(store: Store) -> bool:
    """Whether there is any snapshot whose contents are, or can be, known."""
    rows = store.database.read(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM contents) OR EXISTS"
        " (SELECT 1 FROM records JOIN blobs USING (diff_id) WHERE NOT mutable)"
    )
    return bool(rows)


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
