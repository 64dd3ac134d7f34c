"""What an extract fetched is there for the next one, in any process; what is damaged there is fetched again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import FileRemote, put_layer
from support.trees import describe

from shipway.layers.toc import toc_location
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.transfer.remote_tree import RemoteTree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store", "native")
    yield store
    store.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"file{number:02}").write_bytes(os.urandom(30_000))
    (tree / "large").write_bytes(os.urandom(5 << 20))
    with (tree / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(os.urandom(100))
    return tree


@pytest.fixture
def layer(remote: FileRemote, tree: Path) -> Descriptor:
    return put_layer(remote, None, tree)


def moved(remote: FileRemote, layer: Descriptor, store: Store, out: Path, *sources: str) -> int:
    """Extract with nothing in memory, and return how many bytes were fetched for it."""
    return RemoteTree(remote, [layer], store=store).extract(out, sources).traffic.received


def test_a_second_extract_fetches_nothing(
    remote: FileRemote, layer: Descriptor, tree: Path, store: Store, tmp_path: Path
) -> None:
    for number, sources in enumerate([("file07",), ("large",), ("sparse", "file30"), ()]):
        first, second = tmp_path / f"first{number}", tmp_path / f"second{number}"
        assert moved(remote, layer, store, first, *sources)
        assert moved(remote, layer, store, second, *sources) == 0
        assert describe(first, dir_times=False) == describe(second, dir_times=False)
    assert describe(tmp_path / "second3") == describe(tree)


def test_another_file_of_the_layer_costs_its_bytes(
    remote: FileRemote, layer: Descriptor, store: Store, tmp_path: Path
) -> None:
    moved(remote, layer, store, tmp_path / "one", "file07")
    assert moved(remote, layer, store, tmp_path / "two", "file20") < 31_000


def test_damage_and_loss_are_made_good_by_fetching_again(
    remote: FileRemote, layer: Descriptor, tree: Path, store: Store, tmp_path: Path
) -> None:
    everything = moved(remote, layer, store, tmp_path / "first")
    for path in store.kept.directory.iterdir():
        data = bytearray(path.read_bytes())
        for at in range(len(data) // 3, len(data), 10_000):
            data[at] ^= 1
        path.write_bytes(data)
    again = moved(remote, layer, store, tmp_path / "second")
    assert 0 < again < everything * 1.1
    assert describe(tmp_path / "second") == describe(tree)
    for path in store.kept.directory.iterdir():
        path.unlink()
    assert moved(remote, layer, store, tmp_path / "third") > everything // 2
    assert describe(tmp_path / "third") == describe(tree)


def test_the_same_content_in_another_layer_is_not_fetched(
    remote: FileRemote, layer: Descriptor, tree: Path, store: Store, tmp_path: Path
) -> None:
    moved(remote, layer, store, tmp_path / "first")
    (tree / "file00").write_bytes(b"changed")
    (tree / "new").write_bytes(b"new")
    other = put_layer(remote, None, tree)
    location = toc_location(other)
    assert location is not None
    assert moved(remote, other, store, tmp_path / "second") < location.length + 200
    assert describe(tmp_path / "second") == describe(tree)
