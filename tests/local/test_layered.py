"""The view of layers that are kept in the database is that of the same layers in memory, however they are cut."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.random_trees import TREES, Node, make
from support.slope import slope

from shipway import Cache, CachePolicy, RecordType
from shipway.local import rows
from shipway.local.changes import Changes, LocatedEntry
from shipway.local.checksums import kept_row
from shipway.local.database import Database
from shipway.local.layered import LayeredTree
from shipway.trees.diff import changes, walk
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry
from shipway.trees.merged import MergedTree

FEW, MANY = 5000, 10_000
"""Files: more than are looked at before what is known of them is kept."""
LAWS = settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)


def record(name: str) -> rows.Record:
    return rows.Record(
        id=name,
        mutable=False,
        twin=None,
        snapshot=name,
        diff_id=None,
        chain_id=None,
        policy=CachePolicy.RETAIN,
        record_type=RecordType.REGULAR,
        description="",
        labels={},
        created=0,
        last_used=None,
        usage_count=0,
        parents=(),
    )


def kept(database: Database, layers: list[list[Entry]], block_size: int) -> list[Changes]:
    """Keep layers and return them as another process would load them."""
    loaded = []
    for number, layer in enumerate(layers):
        with database.write() as db:
            rows.insert(db, record(f"layer{number}"))
        Changes.keep(database, f"layer{number}", map(kept_row, layer), block_size=block_size)
        found = Changes.load(database, f"layer{number}")
        assert found is not None
        loaded.append(found)
    return loaded


def layers_of(root: Path, trees: list[Node]) -> list[list[Entry]]:
    """Return the layer that each tree is by itself, and the one that it is over the tree before it."""
    found = []
    for number, tree in enumerate(trees):
        make(root / f"{number}", tree)
        with DirectoryTree(root / f"{number}") as upper:
            found.append(list(changes(None, upper)))
            if number:
                with DirectoryTree(root / f"{number - 1}") as lower:
                    found.append(list(changes(lower, upper)))
    return found


def said(entry: Entry | None) -> tuple[object, ...] | None:
    return None if entry is None else (entry.path, entry.kind, entry.link, entry.dev)


@pytest.mark.slow
@LAWS
@given(
    trees=st.lists(TREES, min_size=1, max_size=3),
    order=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    block_size=st.integers(1, 5),
)
def test_layers_that_are_kept_show_the_tree_that_they_show_in_memory(
    trees: list[Node], order: list[int], block_size: int
) -> None:
    with tempfile.TemporaryDirectory() as name, closing(Database(Path(name) / "database")) as database:
        found = layers_of(Path(name), trees)
        layers = [found[number % len(found)] for number in order]
        expected = MergedTree(layers)
        tree = LayeredTree(kept(database, layers, block_size))
        everything = list(walk(expected))
        assert list(map(said, tree.walk(""))) == list(map(said, everything))
        for entry in everything:
            assert said(tree.get(entry.path)) == said(entry)
            assert tree.names(entry.path) == expected.names(entry.path)
            assert list(map(said, tree.walk(entry.path))) == list(map(said, walk(expected, entry.path)))
            located = tree.get(entry.path)
            number, path = expected.origin_of(entry)
            if isinstance(located, LocatedEntry):
                assert located.place.row.path.decode() == path
                assert located.place.row.digest or located.place.row.size == entry.size
            else:
                assert number < 0
        for missing in ("none", "a/none", "a/b/c/none"):
            assert tree.get(missing) is None
            assert tree.names(missing) == []


def test_a_digest_that_became_known_is_known_to_all_names_and_to_the_next_who_looks(tmp_path: Path) -> None:
    layer = [Entry(path="", kind="dir"), *(Entry(path=f"f{n}", kind="reg", size=n) for n in range(1, 10))]
    layer.append(Entry(path="g", kind="hardlink", link="f3"))
    with closing(Database(tmp_path / "database")) as database:
        (one,) = kept(database, [layer], block_size=2)
        linked = LayeredTree([one]).get("g")
        assert isinstance(linked, LocatedEntry)
        linked.place.known(b"digest")
        one.save()
        again = Changes.load(database, "layer0")
        assert again is not None
        digests = {place.row.path: place.row.digest for _, place in again.scan() if place.row.size}
        assert {path for path, digest in digests.items() if digest} == {b"f3"}


@pytest.mark.slow
def test_a_checksum_takes_hardly_more_memory_for_a_file_more(tmp_path: Path) -> None:
    def made(files: int) -> Path:
        for number in range(files):
            path = tmp_path / f"{files}/{number // 100}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d" % number)
        return tmp_path / f"{files}"

    with Cache.open(tmp_path / "store") as cache:
        refs = {files: cache.import_tree(made(files)) for files in (FEW, MANY)}

        def look(files: int) -> None:
            with cache.store.database.write() as db:
                db.execute("DELETE FROM changes")
                db.execute("DELETE FROM answers")
            with cache.get(refs[files].id) as cold:
                cold.checksum()
            with cache.get(refs[files].id) as known:
                known.checksum("/1")
                known.checksum("/", include=["**/*7"])

        assert slope(look, FEW, MANY) < 60
        assert slope(lambda files: cache.import_tree(tmp_path / f"{files}").release(), FEW, MANY) < 60
