"""Copying out of a tree, wherever the tree is: `cp -a` with all or nothing.

Everything is written to a staging directory in the destination and moved into place when it is
whole (`shipway.trees.place`). So a source that is missing, content that is corrupt, a full disk or an
interruption leave the destination as it was. A symlink inside the destination is never
written through: it is something in the way, as a file is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from shipway.progress import Progress, ProgressCallback
from shipway.refs import Extracted
from shipway.trees.entry import Buffer, Content, Entry, OpenFile, Tree
from shipway.trees.place import destination, staging
from shipway.trees.select import Selected, Selection, select
from shipway.trees.writer import TreeWriter


def extract(
    tree: Tree,
    to_path: str | Path,
    sources: Sequence[str] = (),
    *,
    parents: bool = False,
    wildcard: bool = False,
    progress: ProgressCallback | None = None,
) -> Extracted:
    """Copy `sources` out of `tree` into the directory `to_path`; see `Extractable.extract`.

    What lands where is `shipway.trees.select`'s to say. In the destination, which is made
    if need be, directories merge and take the tree's metadata, files are replaced in one step;
    where just one of two things is a directory it is `Invalid`. The destination itself takes
    the metadata of the root, or of a directory whose contents land in it, if it was made here.
    Without privileges, devices are left out and listed in `skipped` by where they would have landed.

    Raises `NotFound` for a source that is not there, before anything is written, `Corrupt` for content that
    is not what it should be, `NoSpace`; after any exception the destination is as it was.
    """
    return write_selection(tree, to_path, select(tree, sources, parents=parents, wildcard=wildcard), progress=progress)


def write_selection(
    tree: Tree, to_path: str | Path, selection: Selection, *, progress: ProgressCallback | None = None
) -> Extracted:
    """Copy what was selected from `tree` into the directory `to_path`; see `extract`."""
    with (
        destination(to_path) as where,
        staging(where, with_root=where.created and selection.root is not None) as staged,
    ):
        with TreeWriter(staged.fd, skip_devices=True) as writer:
            meter = _Meter(str(to_path), selection, progress)
            skipped = _write(tree, selection, writer, meter)
        staged.place()
    return Extracted(entries=len(selection) - len(skipped), size=meter.total, skipped=tuple(sorted(skipped)))


class _Meter:
    """Tells a callback how many bytes of content have been written."""

    def __init__(self, item: str, selection: Selection, progress: ProgressCallback | None) -> None:
        self.total = selection.files.size
        self._item = item
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(Progress("extract", self._item, self._done, self.total))

    def watch(self, pieces: Iterator[Buffer | int]) -> Iterator[Buffer | int]:
        for piece in pieces:
            yield piece
            self.add(piece if isinstance(piece, int) else memoryview(piece).nbytes)


def _write(tree: Tree, selection: Selection, writer: TreeWriter, meter: _Meter) -> set[str]:
    """Write everything; return the destination paths of devices that were left out, and of their other names."""
    if selection.root is not None:
        writer.add(replace(selection.root, path=""))
    for item in selection.others:
        writer.add(item.landed())
    meter.add(0)
    for entry, content in tree.read(selection.files):
        assert isinstance(entry, Selected)  # a tree yields what it was given
        _write_file(writer, entry.landed(), content, meter)
    skipped = set(writer.skipped)
    for item in selection.links:
        if item.first in skipped:
            skipped.add(item.to)
        else:
            writer.add(Entry(path=item.to, kind="hardlink", link=item.first))
    writer.finish()
    return skipped


def _write_file(writer: TreeWriter, entry: Entry, content: Content, meter: _Meter) -> None:
    if isinstance(content, (bytes, bytearray, memoryview, OpenFile)):
        writer.add(entry, content)
        meter.add(entry.size)
    else:
        writer.add(entry, meter.watch(content))
