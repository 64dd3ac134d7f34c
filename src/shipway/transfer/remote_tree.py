"""The tree of a remote image: looked at and read without pulling it.

Layers with a table of contents (`chunked`) are read by ranges, others (`plain`) as streams; an image may have
both kinds. Bytes move only when they are needed: to list the tree, the tables of contents and, once, every plain
layer; to extract, as little as `search` and `ranges` can make it.
"""

from __future__ import annotations

import tempfile
import threading
from array import array
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import compress, count
from pathlib import Path
from typing import BinaryIO

from shipway.layers.contents import Contents, is_coarse
from shipway.layers.formats import contents_of
from shipway.layers.index import Index
from shipway.limits import Limits
from shipway.local.kept import Pack
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import ProgressCallback
from shipway.refs import Extracted
from shipway.remotes.contract import BlobSource, until_right
from shipway.stopping import Workers
from shipway.transfer.ahead import WORKERS, Job, run_ahead
from shipway.transfer.chunked import ChunkedLayer
from shipway.transfer.delivery import Piece, assemble, repeated, weigh
from shipway.transfer.plain import Capture, Files, PlainLayer
from shipway.transfer.repeats import Repeats
from shipway.transfer.search import Search
from shipway.transfer.sources import HereFirst
from shipway.trees.content import ContentWriter
from shipway.trees.entry import Content, Entry
from shipway.trees.extract import extract
from shipway.trees.listing import Listing, listing
from shipway.trees.merged import merge
from shipway.trees.packed import PackedEntries, picked
from shipway.trees.writer import typed

Layer = ChunkedLayer | PlainLayer


class RemoteTree:
    """The tree that `layers`, base first, of a remote show; implements `SeekableTree`. Thread-safe.

    What is in `store`, if one is given, is taken from there, and what was fetched is remembered there. `staging` is a
    directory for contents on their way (files without a name, gone with the process); by default the store's, else the
    system's. Every layer is held to `limits`, by default the store's. Every method may raise what the remote raises,
    and `Corrupt` and its kinds for what is not what its digest, size or format promised.
    """

    def __init__(
        self,
        remote: BlobSource,
        layers: Sequence[Descriptor],
        staging: Path | None = None,
        *,
        store: Store | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Show the tree; nothing is fetched yet. Raises `UnknownMediaType`."""
        self._remote = remote if store is None else HereFirst(store, remote)
        self._staging = staging or (store.root / "ingest" if store is not None else None)
        self._store = store
        self._limits = limits or (store.limits if store is not None else Limits())
        self._layers = [self._open_layer(descriptor) for descriptor in layers]
        self._lock = threading.Lock()
        self._view: _View | None = None

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        return self._whole().get(path)

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order; none if it is not a directory."""
        return self._whole().names(path)

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Content], None, None]:
        """Yield each of the files `entries`, all taken from this tree, with its content.

        They come in the order of the blobs. Equal contents are fetched once. Chunks are checked before they are
        handed over; the digest of a file of several chunks before its last one is.
        """
        return self._whole().read(entries)

    def open_file(self, entry: Entry) -> BinaryIO:
        """Return the content of a file of this tree as a seekable file: by chunks where its layer has them.

        Of a layer without a table the file is read into `staging` first.
        """
        return self._whole().open_file(entry)

    def origin_of(self, entry: Entry) -> tuple[int, str]:
        """Return which layer, from 0 for the base, holds the content of a file of this tree, and under what path."""
        return self._whole().origin_of(entry)

    def place_of(self, entry: Entry) -> tuple[int, int]:
        """Return which layer, from 0 for the base, holds the content of a file of this tree, and with which entry."""
        return self._whole().place_of(entry)

    def work_out_records(self) -> None:
        """Have the records of files of layers without tables worked out when these are read, from now on."""
        for layer in self._layers:
            if isinstance(layer, PlainLayer):
                layer.with_records = True

    def records(self, number: int) -> bytearray:
        """Return the digests of the records of a layer's files that are worked out, each at its entry's place."""
        layer = self._layers[number]
        if isinstance(layer, PlainLayer):
            layer.entries()
            return layer.records
        return bytearray()

    @property
    def tables(self) -> list[str]:
        """The digests of the layers' tables of contents, or indexes, base first; empty for a layer without one."""
        return [layer.table for layer in self._layers]

    def extract(
        self,
        to_path: str | Path,
        sources: Sequence[str] = (),
        *,
        parents: bool = False,
        wildcard: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Extracted:
        """Copy `sources` into `to_path`; see `shipway.trees.extract.extract`.

        Plain layers are read from the topmost on, each once, and no further than is
        needed (`shipway.transfer.plain` says what is then checked). What the
        traffic of the result counts is the remote's, while this ran.
        """
        before = self._remote.traffic
        with ExitStack() as stack:
            view = self._view
            if view is None:
                view = self._find(Search(sources, parents=parents, wildcard=wildcard), stack, progress)
            done = extract(view, to_path, sources, parents=parents, wildcard=wildcard, progress=progress)
        return Extracted(done.entries, done.size, done.skipped, self._remote.traffic - before)

    def _whole(self) -> _View:
        """Return the view of all layers, which are listed for that the first time."""
        with self._lock:
            if self._view is None:
                with Workers(WORKERS, "shipway-list") as pool:
                    entries = list(pool.map(_list_layer, self._layers))
                if self._settle():
                    entries = [_list_layer(layer) for layer in self._layers]
                self._view = _View(list(self._layers), entries, {}, self._staging, self._store)
            return self._view

    def _open_layer(self, descriptor: Descriptor) -> Layer:
        indexes = self._store.indexes if self._store is not None else None
        contents: Contents | None = contents_of(descriptor)
        if contents is None and indexes is not None:
            contents = indexes.load(descriptor)
        if contents is None:
            return PlainLayer(self._remote, descriptor, self._limits, indexes)
        return ChunkedLayer(self._remote, descriptor, contents, self._store, self._limits)

    def _settle(self) -> bool:
        """Read layers without tables by their indexes from now on, where one was made; return whether any is."""
        before = list(self._layers)
        self._layers[:] = [layer if isinstance(layer, ChunkedLayer) else self._indexed(layer) for layer in before]
        return self._layers != before

    def _indexed(self, layer: PlainLayer) -> Layer:
        # What was worked out besides, while it was read, only the layer itself has.
        if layer.index is None or layer.with_records:
            return layer
        return ChunkedLayer(
            self._remote, layer.descriptor, Index(layer.index, layer.descriptor), self._store, self._limits
        )

    def _find(self, search: Search, stack: ExitStack, progress: ProgressCallback | None) -> _View:
        """Return a view that has all that `search` is for, and captures that live as long as `stack`."""
        with self._lock:
            self._settle()
            layers = list(self._layers)  # others may settle for indexes meanwhile
        if all(isinstance(layer, ChunkedLayer) or layer.known is not None for layer in layers):
            return self._whole()
        with Workers(WORKERS, "shipway-list") as pool:
            list(pool.map(_list_layer, (layer for layer in layers if isinstance(layer, ChunkedLayer))))
        found = [listing(())] * len(layers)
        captures: dict[int, Capture] = {}
        for number in reversed(range(len(layers))):
            layer = layers[number]
            if isinstance(layer, ChunkedLayer) or layer.known is not None:
                found[number] = layer.entries()
                enough = search.look_at_layer(found[number])
            else:
                captures[number] = Capture(stack.enter_context(_make_spool(self._staging)))
                search, found[number] = until_right(partial(_scan, layer, search, captures[number], progress))
                enough = search.satisfied
                search.leave_layer(found[number])
            if enough:
                break
        return _View(layers, found, captures, self._staging, self._store)


class _View:
    """A tree over the entries of layers, and over contents that were captured already."""

    def __init__(
        self,
        layers: Sequence[Layer],
        entries: Sequence[Listing],
        captures: dict[int, Capture],
        staging: Path | None,
        store: Store | None,
    ) -> None:
        self._layers = layers
        self._store = store
        self._captures = captures
        self._staging = staging
        self._entries = entries
        self._merged = merge(entries)
        self.get = self._merged.get
        self.names = self._merged.names
        self.origin_of = self._merged.origin_of

    def place_of(self, entry: Entry) -> tuple[int, int]:
        number, path = self.origin_of(entry)
        return number, self._entries[number].place(path, entry.digest)

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Content], None, None]:
        if not isinstance(entries, (Sequence, PackedEntries)):
            entries = list(entries)
        repeats, holders, coarse = Repeats(), array("H"), set[int]()
        for number, entry in enumerate(entries):
            if entry.size:
                repeats.add(_content_key(entry), number)
                holders.append(self.origin_of(entry)[0])
                if is_coarse(entry):
                    coarse.add(number)
            else:
                holders.append(0)
                yield entry, b""
        wanted: dict[int, array[int]] = {}
        for number in compress(count(), repeats.settle()):
            wanted.setdefault(holders[number], array("I")).append(number)
        del holders
        with ExitStack() as stack:
            pack = stack.enter_context(self._store.kept.writing()) if self._store is not None else None
            jobs = self._jobs(entries, wanted, coarse, pack)
            pieces = stack.enter_context(closing(run_ahead(jobs, weigh)))

            def others(entry: Entry) -> Sequence[int]:
                return repeats.others(_content_key(entry))

            yield from repeated(assemble(pieces), entries, others, lambda: _make_spool(self._staging))

    def open_file(self, entry: Entry) -> BinaryIO:
        number, _ = self._merged.origin_of(entry)
        layer = self._layers[number]
        if isinstance(layer, ChunkedLayer) and not is_coarse(entry):
            return layer.open_file(entry)
        with _make_spool(self._staging) as spool, closing(self.read([entry])) as files:
            for _, content in files:
                try:
                    ContentWriter().write(spool.fileno(), content, entry.size, entry.path)
                except OSError as error:
                    raise typed(error, entry.path) from error
            return open(f"/proc/self/fd/{spool.fileno()}", "rb")

    def _jobs(
        self, entries: Collection[Entry], wanted: dict[int, array[int]], coarse: Collection[int], pack: Pack | None
    ) -> list[Job[Piece]]:
        """Return what reads those of `entries` whose numbers are given by the layers that hold their contents.

        Those that are `coarse` have chunks that are too large to be held.
        """
        jobs: list[Job[Piece]] = []
        for layer_number, numbers in sorted(wanted.items()):
            layer = self._layers[layer_number]
            if isinstance(layer, ChunkedLayer):
                large = [number for number in numbers if number in coarse] if coarse else []
                if large:
                    paths = (self.origin_of(entry)[1] for entry in picked(entries, large))
                    files = list(zip(large, paths, strict=True))
                    jobs.append(partial(layer.read_coarse, entries, files, lambda: _make_spool(self._staging)))
                    numbers = array("I", (number for number in numbers if number not in coarse))  # noqa: PLW2901  the rest
                jobs += layer.jobs(entries, numbers, pack)
            else:
                places = array("I", (self.place_of(entry)[1] for entry in picked(entries, numbers)))
                captured = self._captures.get(layer_number)
                jobs += layer.jobs(entries, Files(numbers, places), captured, lambda: _make_spool(self._staging))
        return jobs


def extract_remote(
    remote: BlobSource,
    layers: Sequence[Descriptor],
    staging: Path,
    to_path: str | Path,
    sources: Sequence[str] = (),
    *,
    parents: bool = False,
    wildcard: bool = False,
    progress: ProgressCallback | None = None,
) -> Extracted:
    """Copy `sources` out of a remote image into `to_path`; see `RemoteTree.extract`."""
    tree = RemoteTree(remote, layers, staging)
    return tree.extract(to_path, sources, parents=parents, wildcard=wildcard, progress=progress)


def _scan(
    layer: PlainLayer, search: Search, capture: Capture, progress: ProgressCallback | None
) -> tuple[Search, Listing]:
    """Return the entries of a layer up to where enough was seen, and what is searched for after them."""
    search = search.copy()  # of what turns out not to be right nothing is remembered
    found = layer.scan(
        capture,
        wanted=lambda _, path: search.wants(path),
        enough=lambda _, entry: search.look(entry),
        progress=progress,
    )
    return search, found


def _list_layer(layer: Layer) -> Listing:
    return layer.entries()


def _make_spool(staging: Path | None) -> BinaryIO:
    return tempfile.TemporaryFile(dir=staging, prefix="read-")


def _content_key(entry: Entry) -> str:
    """Return what contents have in common that are equal for sure."""
    return entry.digest or f"/{entry.path}"
