"""The merged view of layers: whiteouts, opaque directories, replacement, hard links."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.edits import LAYERS, layer_entries

from shipway.errors import Corrupt, ShipwayError, UnsafeEntry
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry, implied, path_key
from shipway.trees.merged import Merged, MergedTree, merge
from shipway.trees.writer import TreeWriter


def directory(path: str, mode: int = 0o750) -> Entry:
    return Entry(path=path, kind="dir", mode=mode)


def regular(path: str, uid: int = 0) -> Entry:
    return Entry(path=path, kind="reg", mode=0o644, uid=uid, size=1)


def symlink(path: str, target: str) -> Entry:
    return Entry(path=path, kind="symlink", link=target)


def hardlink(path: str, target: str) -> Entry:
    return Entry(path=path, kind="hardlink", link=target)


def whiteout(path: str) -> Entry:
    return Entry(path=path, kind="whiteout")


def opaque(path: str) -> Entry:
    return Entry(path=path, kind="opaque")


def everything(tree: Merged) -> dict[str, Entry]:
    """Return all entries, found by walking down from the root."""
    found: dict[str, Entry] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        entry = tree.get(path)
        assert entry is not None
        found[path] = entry
        pending += [f"{path}/{name}" if path else name for name in tree.names(path)]
    assert len(found) == len(tree)
    return found


def paths(*layers: Sequence[Entry]) -> set[str]:
    return set(everything(merge(layers))) - {""}


def test_no_layers_show_an_empty_root() -> None:
    assert everything(merge([])) == {"": implied("")}


def test_a_whiteout_removes_what_lower_layers_have_at_and_below_its_path() -> None:
    base = [directory("a"), regular("a/x"), directory("a/d"), regular("a/d/y"), regular("ab")]
    assert paths(base, [whiteout("a")]) == {"ab"}
    assert paths(base, [whiteout("a/d")]) == {"a", "a/x", "ab"}


def test_a_whiteout_leaves_its_own_layer_alone_wherever_it_stands() -> None:
    base = [directory("a"), regular("a/x")]
    for layer in ([whiteout("a"), directory("a"), regular("a/new")], [directory("a"), regular("a/new"), whiteout("a")]):
        assert paths(base, layer) == {"a", "a/new"}


def test_a_whiteout_of_nothing_changes_nothing() -> None:
    assert paths([regular("x")], [whiteout("y"), whiteout("no/such/path")]) == {"x"}


def test_an_opaque_directory_hides_what_is_below_it_and_keeps_itself() -> None:
    base = [directory("a", 0o700), regular("a/x"), directory("a/d"), regular("a/d/y"), regular("b")]
    tree = merge([base, [regular("a/new"), opaque("a")]])
    assert set(everything(tree)) == {"", "a", "a/new", "b"}
    kept = tree.get("a")
    assert kept is not None
    assert kept.mode == 0o700


def test_overlayfs_own_mark_for_a_removed_name_is_a_whiteout() -> None:
    assert paths([directory("a"), regular("a/x")], [Entry(path="a", kind="char")]) == set()


def test_marks_for_what_its_own_layer_brought_and_replaced_change_nothing() -> None:
    assert paths([], [regular("a/b"), regular("a"), whiteout("a/b"), opaque("a/b")]) == {"a"}


def test_an_opaque_root_hides_all_lower_layers() -> None:
    assert paths([regular("x"), directory("d"), regular("d/y")], [opaque(""), regular("z")]) == {"z"}


def test_a_directory_over_a_directory_merges_and_takes_the_later_metadata() -> None:
    tree = merge([[directory("a", 0o700), regular("a/x")], [directory("a", 0o555), regular("a/y")]])
    assert tree.names("a") == ["x", "y"]
    entry = tree.get("a")
    assert entry is not None
    assert entry.mode == 0o555


def test_anything_else_over_a_directory_removes_what_was_below_it() -> None:
    base = [directory("a"), directory("a/d"), regular("a/d/x")]
    for top in (regular("a"), symlink("a", "b"), Entry(path="a", kind="fifo")):
        assert everything(merge([base, [top]])) == {"": implied(""), "a": top}


def test_a_directory_over_a_file_starts_empty_even_if_a_still_lower_layer_had_one() -> None:
    assert paths([directory("a"), regular("a/old")], [regular("a")], [directory("a"), regular("a/new")]) == {
        "a",
        "a/new",
    }


def test_missing_parent_directories_are_made() -> None:
    tree = merge([[regular("a/b/c")]])
    made = tree.get("a/b")
    assert made == implied("a/b")


def test_missing_parents_are_taken_from_lower_layers() -> None:
    tree = merge([[directory("a", 0o700)], [regular("a/x")]])
    entry = tree.get("a")
    assert entry is not None
    assert entry.mode == 0o700


def test_an_entry_below_something_that_is_no_directory_is_refused() -> None:
    for other in (symlink("a", "/etc"), regular("a")):
        for layers in ([[other, regular("a/x")]], [[other], [regular("a/x")]]):
            with pytest.raises(UnsafeEntry, match="'a' holds entries but is no directory"):
                merge(layers)


def test_a_file_that_was_removed_gives_way_to_a_directory() -> None:
    assert paths([regular("a")], [whiteout("a"), regular("a/x")]) == {"a", "a/x"}


def test_the_root_cannot_become_something_else() -> None:
    with pytest.raises(UnsafeEntry, match="root"):
        merge([[symlink("", "/")]])


def test_the_root_takes_the_metadata_of_the_topmost_layer_that_lists_it() -> None:
    tree = merge([[directory("", 0o700)], [directory("", 0o711)], [regular("x")]])
    root = tree.get("")
    assert root is not None
    assert root.mode == 0o711


def test_hard_links_are_full_entries_with_one_inode() -> None:
    tree = merge([[regular("a", uid=7), hardlink("b", "a"), hardlink("c", "b"), regular("d"), hardlink("e", "d")]])
    a, b, c, d, e = (tree.get(path) for path in "abcde")
    assert a is not None
    assert a.inode
    assert b == replace(a, path="b")
    assert c == replace(a, path="c")
    assert d is not None
    assert e == replace(d, path="e")
    assert d.inode not in (0, a.inode)


def test_a_hard_link_to_a_lower_layer_keeps_that_file_whatever_upper_layers_do_to_the_target() -> None:
    tree = merge([[regular("t", uid=1)], [hardlink("h", "t")], [regular("t", uid=2)], [whiteout("t")]])
    linked = tree.get("h")
    assert linked is not None
    assert linked.uid == 1
    assert tree.origin_of(linked) == (0, "t")
    assert tree.get("t") is None


def test_the_origin_of_a_file_is_the_layer_and_path_its_content_came_by() -> None:
    tree = merge([[regular("a"), regular("b")], [regular("a"), hardlink("c", "b"), hardlink("d", "c")]])
    origins = {path: tree.origin_of(entry) for path in "abcd" if (entry := tree.get(path))}
    assert origins == {"a": (1, "a"), "b": (0, "b"), "c": (0, "b"), "d": (0, "b")}


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ([[hardlink("h", "gone")]], "'h' is a hard link to nothing, 'gone'"),
        ([[directory("d"), hardlink("h", "d")]], "'h' is a hard link to a directory, 'd'"),
        ([[regular("t")], [whiteout("t"), hardlink("h", "t")]], "nothing"),
        ([[regular("h")], [hardlink("h", "h")]], "what it replaces"),
        ([[regular("h/f"), hardlink("h", "h/f")]], "what it replaces"),
        ([[regular("h/f")], [hardlink("h", "h/f")]], "what it replaces"),
    ],
)
def test_a_hard_link_to_nothing_or_a_directory_is_unsafe(layers: list[list[Entry]], what: str) -> None:
    with pytest.raises(UnsafeEntry, match=what) as caught:
        merge(layers, where="oci://host/repo")
    assert "oci://host/repo, layer " in str(caught.value)


def test_names_come_in_byte_order() -> None:
    names = ["b", "B", "a-b", "a", "é", os.fsdecode(b"\xff"), "\U0001f600"]
    tree = merge([[regular(name) for name in names]])
    assert list(tree.names("")) == sorted(names, key=os.fsencode)
    assert list(tree.names("b")) == []
    assert list(tree.names("no/such")) == []


def test_a_very_deep_path_is_no_problem() -> None:
    deep = "/".join(["d"] * 2000)
    assert len(merge([[regular(deep)], [whiteout("d")]])) == 1
    assert len(merge([[regular(deep)]])) == 2001


Layer = list[tuple[Entry, bytes]]


def _owned(layer: Layer) -> Layer:
    """Return the layer as anybody could make it, root or not."""
    return [
        (
            replace(entry, uid=os.geteuid(), gid=os.getegid(), mode=entry.mode | 0o700 if entry.is_dir else entry.mode),
            content,
        )
        for entry, content in layer
    ]


def _apply(path: Path, layer: Layer) -> int | None:
    """Write a layer over the tree at `path`; return the index of the entry that is refused, if one is."""
    done = 0
    try:
        with TreeWriter(path) as writer:
            for entry, content in layer:
                writer.add(entry, content)
                done += 1
            writer.finish()
    except ShipwayError:
        return done
    return None


def _apply_all(base: Path, layers: list[Layer]) -> tuple[list[list[Entry]], dict[str, Entry]]:
    """Unpack layers one over the other; return them without what was refused, and the resulting tree."""
    accepted: list[Layer] = []
    found: dict[str, Entry] = {}
    for layer in layers:
        left = _owned(layer)
        while True:
            path = Path(tempfile.mkdtemp(dir=base))
            path.chmod(0o755)
            for lower in accepted:
                assert _apply(path, lower) is None
            refused = _apply(path, left)
            if refused is None:
                break
            del left[refused]
        accepted.append(left)
        with DirectoryTree(path) as tree:
            found = {entry.path: entry for entry in tree.entries()}
    return [[entry for entry, _ in layer] for layer in accepted], found


def _comparable(tree: dict[str, Entry]) -> dict[str, tuple[Entry, list[str]]]:
    """Return all that has to agree: owners only if we are root, and of directories not the times."""
    names: dict[int, list[str]] = {}
    for path, entry in tree.items():
        if entry.inode:
            names.setdefault(entry.inode, []).append(path)
    anybody = {} if os.geteuid() == 0 else {"uid": 0, "gid": 0}
    return {
        path: (
            replace(entry, inode=0, mtime_ns=0 if entry.is_dir else entry.mtime_ns, **anybody),
            sorted(names.get(entry.inode, [path])),
        )
        for path, entry in tree.items()
    }


@settings(max_examples=150)
@given(LAYERS)
def test_the_merged_view_is_the_tree_that_unpacking_the_layers_makes(layers: list[Layer]) -> None:
    with tempfile.TemporaryDirectory() as base:
        accepted, expected = _apply_all(Path(base), layers)
    merged = everything(merge(accepted))
    assert merged.keys() == expected.keys()
    assert _comparable(merged) == _comparable(expected)


@given(LAYERS)
def test_empty_layers_in_between_change_nothing(layers: list[Layer]) -> None:
    entries = [[entry for entry, _ in layer] for layer in layers]
    padded: list[list[Entry]] = [[]]
    for layer in entries:
        padded += [layer, []]
    try:
        expected = everything(merge(entries))
    except Corrupt:
        with pytest.raises(Corrupt):
            merge(padded)
    else:
        assert everything(merge(padded)) == expected


def _outcome(make: Callable[[list[list[Entry]]], Merged], layers: list[list[Entry]]) -> object:
    """Return what a view shows, but for the numbers of inodes, and where each content is; or the error."""
    try:
        tree = make(layers)
    except Corrupt as error:
        return str(error)
    shown = everything(tree)
    origins = {path: tree.origin_of(entry) for path, entry in shown.items() if entry.is_file}
    return _comparable(shown), origins, {path: list(tree.names(path)) for path in shown}


@settings(max_examples=500)
@given(LAYERS)
def test_a_view_is_the_same_whether_it_is_made_entry_by_entry_or_not(layers: list[Layer]) -> None:
    entries = [[entry for entry, _ in layer] for layer in layers]
    event(type(outcome := _outcome(merge, entries)).__name__)
    assert outcome == _outcome(MergedTree, entries)


@settings(max_examples=500)
@given(
    st.lists(
        st.lists(
            st.one_of(layer_entries().map(itemgetter(0)), st.just(Entry(path="", kind="opaque"))),
            max_size=5,
            unique_by=lambda entry: entry.path,
        ),
        max_size=4,
    )
)
def test_layers_without_oddities_are_looked_at_where_they_are(layers: list[list[Entry]]) -> None:
    layers = [sorted(layer, key=lambda entry: path_key(entry.path)) for layer in layers]
    outcome = _outcome(merge, layers)
    event("error" if isinstance(outcome, str) else type(merge(layers)).__name__)
    assert outcome == _outcome(MergedTree, layers)
