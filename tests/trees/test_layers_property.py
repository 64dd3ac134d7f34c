"""The law of layers: applied to a directory or put on top of one, they show the same tree; what a tree
changes in another makes it of that other; and all ways to find the changes agree."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from hypothesis import event, given, settings
from support.edits import LAYERS

from shipway.errors import ShipwayError
from shipway.trees.copying import copy_entries
from shipway.trees.diff import changes, layer_changes, walk
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Content, Entry, LocalTree, path_key
from shipway.trees.layer_writer import LayerWriter
from shipway.trees.stack import OverlayTree
from shipway.trees.writer import TreeWriter
from shipway.trees.xattrs import OPAQUE

Layer = list[tuple[Entry, bytes]]
MARK = OPAQUE[0] if os.geteuid() == 0 else OPAQUE[1]
ROOT = Entry(path="", kind="dir", mode=0o755, uid=os.geteuid(), gid=os.getegid())
FUZZ = settings(max_examples=int(os.environ.get("FUZZ", "60")))

Snapshot = list[tuple[Entry, bytes, tuple[str, ...]]]


def snapshot(tree: LocalTree) -> Snapshot:
    """Return all entries, with contents and all names of each file."""
    entries = list(walk(tree))
    groups: dict[int, list[str]] = {}
    for entry in entries:
        if entry.inode:
            groups.setdefault(entry.inode, []).append(entry.path)
    seen = []
    for entry in entries:
        content = b""
        if entry.kind == "reg":
            fd = tree.open(entry.path)
            content = os.read(fd, 1 << 16)
            os.close(fd)
        names = tuple(groups[entry.inode]) if entry.inode else (entry.path,)
        seen.append((msgspec.structs.replace(entry, inode=0), content, names))
    return seen


class Both:
    """The same layers as one directory each time copied and changed, and as a stack of layer directories."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layers: list[Path] = []
        self.flat: list[Path] = []

    def stack(self, count: int | None = None) -> OverlayTree:
        return OverlayTree(self.layers[:count] if count is not None else self.layers)

    def _next(self, entries: list[tuple[Entry, Content]]) -> int | None:
        """Apply entries both ways and keep the result; return the index of an entry that is refused."""
        flat = self.base / f"flat-{len(self.flat)}-{len(os.listdir(self.base))}"
        layer = self.base / f"layer-{len(self.layers)}-{len(os.listdir(self.base))}"
        flat.mkdir()
        layer.mkdir()
        if self.flat:
            with DirectoryTree(self.flat[-1]) as old, TreeWriter(flat) as writer:
                copy_entries(old.entries(), old, writer)
                writer.finish()
        else:
            with TreeWriter(flat) as writer:
                writer.add(ROOT)
                writer.finish()
        problems: list[tuple[int, str]] = []
        lower = self.stack() if self.layers else None
        for sink in (TreeWriter(flat, keep_times=True), LayerWriter(layer, lambda: lower, mark=MARK)):
            done = 0
            try:
                with sink:
                    if not self.layers:
                        sink.add(ROOT)
                    for entry, content in entries:
                        sink.add(entry, content)
                        done += 1
                    sink.finish()
            except ShipwayError as error:
                problems.append((done, type(error).__name__))
        if problems:
            # Whatever is refused is refused by both, at the same entry, for the same kind of reason.
            assert len(problems) == 2
            assert problems[0] == problems[1]
            return problems[0][0]
        self.flat.append(flat)
        self.layers.append(layer)
        return None

    def apply(self, layer: Layer) -> None:
        """Apply a layer without the entries that are refused."""
        entries: list[tuple[Entry, Content]] = [(_owned(entry), content) for entry, content in layer]
        while (refused := self._next(entries)) is not None:
            event(f"refused {entries[refused][0].kind}")
            del entries[refused]


def _owned(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, uid=os.geteuid(), gid=os.getegid())


@contextmanager
def both() -> Iterator[Both]:
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        yield Both(Path(base))


@FUZZ
@given(LAYERS)
def test_a_layer_applied_and_a_layer_stacked_show_the_same_tree(layers: list[Layer]) -> None:
    with both() as pair:
        for layer in layers:
            pair.apply(layer)
            with DirectoryTree(pair.flat[-1]) as flat, pair.stack() as stack:
                expected = snapshot(flat)
                assert snapshot(stack) == expected
                keys = [path_key(entry.path) for entry, _, _ in expected]
                assert keys == sorted(keys)


@FUZZ
@given(LAYERS)
def test_changes_are_one_function_of_two_trees_however_they_are_kept(layers: list[Layer]) -> None:
    with both() as pair:
        for layer in layers:
            pair.apply(layer)
            if len(pair.layers) == 1:
                continue
            with (
                DirectoryTree(pair.flat[-2]) as flat_lower,
                DirectoryTree(pair.flat[-1]) as flat_upper,
                pair.stack(len(pair.layers) - 1) as lower,
                pair.stack() as upper,
            ):
                expected = list(changes(flat_lower, flat_upper))
                assert list(layer_changes(lower, upper)) == expected
                assert list(changes(lower, upper)) == expected
                event("hard links" if any(entry.kind == "hardlink" for entry in expected) else "no hard links")


@FUZZ
@given(LAYERS)
def test_the_changes_make_the_upper_tree_of_the_lower_one(layers: list[Layer]) -> None:
    with both() as pair:
        for layer in layers:
            pair.apply(layer)
            if len(pair.layers) == 1:
                continue
            with DirectoryTree(pair.flat[-2]) as lower, DirectoryTree(pair.flat[-1]) as upper:
                found = list(changes(lower, upper))
                expected = snapshot(upper)
                layered: list[tuple[Entry, bytes]] = []
                for entry in found:
                    content = b""
                    if entry.kind == "reg":
                        fd = upper.open(entry.path)
                        content = os.read(fd, 1 << 16)
                        os.close(fd)
                    layered.append((entry, content))
            pair.flat.pop()
            pair.layers.pop()
            pair.apply(layered)
            with DirectoryTree(pair.flat[-1]) as flat, pair.stack() as stack:
                assert snapshot(flat) == expected
                assert snapshot(stack) == expected
            with pair.stack(len(pair.layers) - 1) as lower_stack, pair.stack() as upper_stack:
                assert list(layer_changes(lower_stack, upper_stack)) == found


@FUZZ
@given(LAYERS)
def test_an_unchanged_tree_has_no_changes(layers: list[Layer]) -> None:
    with both() as pair:
        for layer in layers:
            pair.apply(layer)
        pair.apply([])
        with DirectoryTree(pair.flat[-2]) as lower, DirectoryTree(pair.flat[-1]) as upper:
            assert list(changes(lower, upper)) == []
        with pair.stack(len(pair.layers) - 1) as below, pair.stack() as above:
            assert list(layer_changes(below, above)) == []
