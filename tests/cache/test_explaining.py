"""Why a key hit or missed, and where the bytes of a pulled ref came from."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest
from support.caches import OpenCache, write
from support.trees import free_port

from shipway import Answer, Cache, LocalImmutableRef, RemoteImmutableRef, Way
from shipway.oci import key_tag


def test_each_place_says_why(registry: str, repository: str, open_cache: OpenCache) -> None:
    place = f"oci://{registry}/{repository}"
    dead = f"oci://127.0.0.1:{free_port()}/x"
    one, two = open_cache("one"), open_cache("two", remotes=[f"oci://{registry}/{repository}/empty", dead, place, dead])
    with one.new() as work, work.commit() as done:
        one.put("key", done, push_to=place)
    found = two.explain("key")
    assert [asked.answer for asked in found.asked] == [
        Answer.MISS,
        Answer.MISS,
        Answer.ERROR,
        Answer.HIT,
        Answer.NOT_ASKED,
    ]
    assert found.tag == key_tag(b"key")
    assert found.id is not None
    assert found.id.startswith(place + "@sha256:")
    missing = two.explain(b"\xff nobody put this")
    assert missing.id is None
    assert Answer.HIT not in [asked.answer for asked in missing.asked]


def test_a_key_whose_ref_was_pruned_is_told_from_one_that_never_was(cache: Cache) -> None:
    with cache.new() as work, work.commit() as done:
        cache.put("key", done)
        assert cache.explain("key").id == done.id
    never = cache.explain("never")
    assert (never.asked[0].answer, never.pulled) == (Answer.MISS, None)
    with cache.store.database.write() as db:
        db.execute("UPDATE tags SET record = 'gone'")
    assert "gone" in cache.explain("key").asked[0].reason


def test_how_a_ref_was_pulled_is_known_as_long_as_it_is_here(
    registry: str, repository: str, open_cache: OpenCache, tmp_path: Path
) -> None:
    place = f"oci://{registry}/{repository}"
    one, two = open_cache("one"), open_cache("two", remotes=[place])
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(50):
        (tree / f"file{number:02}").write_bytes(os.urandom(40_000))
    pulled: LocalImmutableRef | None = None
    for key in ("first", "second"):
        (tree / "file00").write_bytes(os.urandom(40_000))
        with one.import_tree(tree) as ref:
            one.put(key, ref, push_to=place)
        found = two.lookup(key)
        assert isinstance(found, RemoteImmutableRef)
        with found:
            pulled = found.pull()
            two.put(key, pulled)
    assert pulled is not None
    first, second = two.explain("first").pulled, two.explain_ref(pulled.id).pulled
    assert first is not None
    assert second is not None
    assert [layer.way for layer in (*first.layers, *second.layers)] == [Way.FETCHED, Way.ASSEMBLED]
    assert first.fetched == first.layers[0].size
    assert 40_000 < second.fetched < 60_000
    assert second.layers[0].deduplicated == 49 * 40_000
    with two.new(pulled) as work:
        write(work, more="on top")
        with work.commit() as child:
            assert two.explain_ref(child.id).pulled == second
    two.close()
    again = open_cache("two")
    assert again.explain("second").pulled == second
    list(again.prune())
    assert again.store.database.read("SELECT count(*) FROM reports") == [(0,)]
    assert again.verify() == []


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("gzip", "it is gzip, without a table of contents that says what is in it"),
        ("zstd", "it is zstd, without a table of contents that says what is in it"),
        ("uncompressed", "it is uncompressed, without a table of contents that says what is in it"),
        ("zstd:chunked", "little of it was here"),
        ("estargz", "little of it was here"),
    ],
)
def test_why_a_layer_was_fetched_is_true_of_its_form(
    registry: str, open_cache: OpenCache, tmp_path: Path, form: str, reason: str
) -> None:
    place = f"oci://{registry}/explained/{uuid4().hex}:tag"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(2_000_000))
    with open_cache("one").import_tree(tmp_path / "tree") as ref:
        ref.push(place, compression=form)
    two = open_cache("two")
    with two.new() as work:
        write(work, other="something that is here")
        with work.commit() as known, two.remote(place) as remote:
            known.push(f"file://{tmp_path}/bucket#known")
            with remote.pull() as pulled:
                assert how_fetched(two, pulled) == (Way.FETCHED, reason)


def test_why_a_layer_was_fetched_is_true_of_a_store_where_nothing_is_known_and_of_a_small_layer(
    registry: str, repository: str, open_cache: OpenCache, tmp_path: Path
) -> None:
    one, two = open_cache("one"), open_cache("two")
    for name, size, reason in [
        ("large", 2_000_000, "of no layer that was here is it known what is in it"),
        ("small", 100, "to look what of it is here would have cost as much"),
    ]:
        place = f"oci://{registry}/{repository}:{name}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(os.urandom(size))
        with one.import_tree(tmp_path / name) as ref:
            ref.push(place)
        with two.remote(place) as remote, remote.pull() as pulled:
            assert how_fetched(two, pulled) == (Way.FETCHED, reason)


def how_fetched(cache: Cache, ref: LocalImmutableRef) -> tuple[Way, str]:
    """Return how a ref's only layer was pulled, and the reason."""
    found = cache.explain_ref(ref.id).pulled
    assert found is not None
    (layer,) = found.layers
    return layer.way, layer.reason
