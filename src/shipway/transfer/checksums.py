"""Content checksums of remote refs: from tables of contents, and the files that are not known yet."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from shipway.local.checksums import RemoteDigests
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.checksum import Checksums, bare_record, header, record
from shipway.trees.entry import Entry


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
        self._tables = tree.tables
        self._known: dict[int, dict[str, str]] = {}

    def digests(self, wanted: Iterable[Entry]) -> list[str]:
        """Return the digests of the records of entries of the tree; files not known are fetched, in one go."""
        entries = list(wanted)
        origins = {entry.path: self._place(entry) for entry in entries if entry.size}
        lacking: dict[tuple[int, str], Entry] = {}
        for entry in entries:
            if entry.size:
                number, path = origins[entry.path]
                if path not in self._of_layer(number):
                    lacking.setdefault((number, path), entry)
        self._fetch(lacking)
        digests = []
        for entry in entries:
            if entry.size:
                number, path = origins[entry.path]
                digests.append(self._known[number][path])
            else:
                digests.append(bare_record(entry))
        return digests

    def _place(self, entry: Entry) -> tuple[int, str]:
        """Return which layer holds a file, and what it is known by there: its path, unless the layer has that twice."""
        number, path = self._tree.origin_of(entry)
        if not self._tables[number] and path not in self._tree.records(number):
            path = f"{path}\0{entry.digest}"
        return number, path

    def _of_layer(self, number: int) -> dict[str, str]:
        known = self._known.get(number)
        if known is None:
            table = self._tables[number]
            known = self._known[number] = self._kept.load(table) if table else dict(self._tree.records(number))
        return known

    def _fetch(self, lacking: dict[tuple[int, str], Entry]) -> None:
        """Read files and remember the digests of their records, those read before a failure too."""
        origins = {entry.path: origin for origin, entry in lacking.items()}
        changed: set[int] = set()
        try:
            with closing(self._tree.read(lacking.values())) as files:
                for entry, content in files:
                    number, path = origins[entry.path]
                    self._known[number][path] = record(header(entry), content, entry.size, entry.path)
                    changed.add(number)
        finally:
            for number in changed:
                if self._tables[number]:
                    self._kept.save(self._tables[number], self._known[number])
