"""Pushing asks little, sends what is lacking, and takes from other repositories what is there."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest
from support.caches import OpenCache, write

from shipway import Cache, LocalImmutableRef


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(50):
        (tree / f"file{number:02}").write_bytes(os.urandom(40_000))
    return tree


def pulled(cache: Cache, reference: str) -> LocalImmutableRef:
    with cache.remote(reference) as remote:
        return remote.pull()


def test_what_is_under_the_tag_already_is_asked_once(registry: str, repository: str, cache: Cache, tree: Path) -> None:
    place = f"oci://{registry}/{repository}:one"
    with cache.import_tree(tree) as ref:
        first = ref.push(place)
        assert first.traffic.sent > 2_000_000
        again = ref.push(place)
    assert again.digest == first.digest
    assert (again.layers_moved, again.traffic.requests, again.traffic.sent) == (0, 1, 0)


def test_another_tag_takes_no_question_about_blobs(registry: str, repository: str, cache: Cache, tree: Path) -> None:
    with cache.import_tree(tree) as ref:
        ref.push(f"oci://{registry}/{repository}:one")
        again = ref.push(f"oci://{registry}/{repository}:two")
    assert (again.layers_moved, again.traffic.requests) == (0, 3)
    assert again.traffic.sent < 2_000


def test_of_a_changed_tree_only_the_new_layer_is_asked_about(
    registry: str, repository: str, cache: Cache, tree: Path
) -> None:
    place = f"oci://{registry}/{repository}:one"
    with cache.import_tree(tree) as base:
        base.push(place)
        with cache.new(base) as work:
            write(work, small="change")
            with work.commit() as changed:
                done = changed.push(place)
    assert done.layers_moved == 1
    assert done.traffic.requests == 1 + 2 + 2 * 2 + 1  # the manifest, two questions, two uploads, the manifest
    assert done.traffic.sent < 5_000


def test_a_blob_that_is_gone_though_a_manifest_names_it_is_sent_again(
    registry: str, repository: str, cache: Cache, tree: Path, tmp_path: Path
) -> None:
    place = f"oci://{registry}/{repository}:one"
    with cache.import_tree(tree) as base:
        base.push(place)
        (blob,) = cache.store.layer_blobs(cache.store.records.get(base.id))
        deletion = urllib.request.Request(f"http://{registry}/v2/{repository}/blobs/{blob.digest}", method="DELETE")
        with urllib.request.urlopen(deletion):
            pass
        with cache.new(base) as work:
            write(work, small="change")
            with work.commit() as changed:
                assert changed.push(place).layers_moved == 2
    with cache.remote(place) as remote:
        remote.extract(tmp_path / "out", "file07")
    assert (tmp_path / "out/file07").read_bytes() == (tree / "file07").read_bytes()


def test_blobs_are_taken_from_other_repositories_of_the_registry(
    registry: str, repository: str, open_cache: OpenCache, tree: Path
) -> None:
    mine, other = open_cache("mine"), open_cache("other")
    with mine.import_tree(tree) as ref:
        ref.push(f"oci://{registry}/{repository}:one")
        done = ref.push(f"oci://{registry}/{repository}/next:one")
        assert done.traffic.sent < 3_000
    with pulled(other, f"oci://{registry}/{repository}:one") as ref:
        done = ref.push(f"oci://{registry}/{repository}/third:one")
        assert done.traffic.sent < 3_000


def test_a_layer_that_was_put_together_is_not_packed_for_where_it_came_from(
    registry: str, repository: str, open_cache: OpenCache, tree: Path
) -> None:
    mine, other = open_cache("mine"), open_cache("other")
    place = f"oci://{registry}/{repository}"
    for tag in ("one", "two"):
        (tree / "file00").write_bytes(os.urandom(40_000))
        with mine.import_tree(tree) as ref:
            ref.push(f"{place}:{tag}")
    pulled(other, f"{place}:one").release()
    with pulled(other, f"{place}:two") as ref:
        blobs = len(os.listdir(other.root / "blobs/sha256"))
        for target in (f"{place}:two", f"{place}:three", f"{place}/elsewhere:one"):
            done = ref.push(target)
            assert done.traffic.sent < 3_000
        again = ref.push(f"{place}:three")
        assert (again.traffic.requests, again.traffic.sent) == (1, 0)
        assert len(os.listdir(other.root / "blobs/sha256")) == blobs


def test_a_layer_that_is_nowhere_else_is_packed(
    registry: str, repository: str, open_cache: OpenCache, tree: Path, tmp_path: Path
) -> None:
    mine, other = open_cache("mine"), open_cache("other")
    place = f"oci://{registry}/{repository}"
    for tag in ("one", "two"):
        (tree / "file00").write_bytes(os.urandom(40_000))
        with mine.import_tree(tree) as ref:
            ref.push(f"{place}:{tag}")
    pulled(other, f"{place}:one").release()
    with pulled(other, f"{place}:two") as ref:
        with other.store.database.write() as db:
            db.execute("DELETE FROM places")
        done = ref.push(f"{place}/elsewhere:one")
        assert done.layers_moved == 1
        assert done.traffic.sent > 2_000_000
    with mine.remote(f"{place}/elsewhere:one") as remote:
        remote.extract(tmp_path / "out")
    assert (tmp_path / "out/file00").read_bytes() == (tree / "file00").read_bytes()
