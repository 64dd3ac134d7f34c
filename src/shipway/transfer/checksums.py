"""Content checksums of remote refs: from tables of contents, and the files that are not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from shipway.local.checksums import PART, RemoteDigests
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.checksum import DIGEST_SIZE, PREFIX, Checksums, bare_record, header, raw, record
from shipway.trees.entry import Entry

_WINDOW = 8 << 10
"""Entries whose records are worked out at a time."""


def remote_checksums(tree: RemoteTree, kept: RemoteDigests) -> Checksums:
    """Return the checksums of a remote tree.

    Objects without content cost nothing besides the tables of contents. Files are read once, as many as a checksum is
    over, by ranges; the digests are remembered in `kept` for layers that have a table. Others are read whole, once.
    """
    tree.work_out_records()
    return Checksums(tree, _RemoteRecords(tree, kept).digests)


class _RemoteRecords:
    """The records of the objects of one remote tree."""

    def __init__(self, tree: RemoteTree, kept: RemoteDigests) -> None:
        self._tree = tree
        self._kept = kept
        self._known: dict[int, bytearray] = {}
        """By layer, the digests of the records of its files, one after the other; zeros for those not known."""
        self._changed: dict[int, set[int]] = {}
        """By layer, the parts of these that are not kept yet."""

    def digests(self, wanted: Iterable[Entry]) -> Iterator[str]:
        """Yield the digests of the records of entries of the tree; files not known are fetched, many in one go.

        Those read before a failure are remembered too.
        """
        entries = iter(wanted)
        try:
            while window := list(islice(entries, _WINDOW)):
                yield from self._look(window)
        finally:
            self._save()

    def _look(self, entries: Sequence[Entry]) -> Iterator[str]:
        places = [self._tree.place_of(entry) if entry.size else None for entry in entries]
        lacking = {
            place: entry
            for place, entry in zip(places, entries, strict=True)
            if place is not None and not any(self._digest(place))
        }
        self._fetch(lacking)
        for place, entry in zip(places, entries, strict=True):
            yield bare_record(entry) if place is None else PREFIX + self._digest(place).hex()

    def _digest(self, place: tuple[int, int]) -> bytearray:
        number, index = place
        known = self._known.get(number)
        if known is None:
            table = self._tree.tables[number]
            known = self._kept.load(table) if table else bytearray()
            if not known:
                known = self._tree.records(number)
                self._changed[number] = set(range(-(-len(known) // PART)))
            self._known[number] = known
        return known[DIGEST_SIZE * index : DIGEST_SIZE * (index + 1)]

    def _fetch(self, lacking: dict[tuple[int, int], Entry]) -> None:
        places = {entry.path: place for place, entry in lacking.items()}
        with closing(self._tree.read(lacking.values())) as files:
            for entry, content in files:
                number, index = places[entry.path]
                known, at = self._known[number], DIGEST_SIZE * index
                known.extend(bytes(max(0, at + DIGEST_SIZE - len(known))))
                known[at : at + DIGEST_SIZE] = raw(record(header(entry), content, entry.size, entry.path))
                self._changed.setdefault(number, set()).add(at // PART)

    def _save(self) -> None:
        for number, parts in self._changed.items():
            table = self._tree.tables[number]
            if table and parts:
                self._kept.save(table, self._known[number], parts)
        self._changed.clear()
