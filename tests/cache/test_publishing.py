"""Indexes beside an image: one machine reads its layers whole, others only ranges, if they are told what to trust."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from support.caches import OpenCache
from support.registry import registry, repository

from shipway import Cache, Corrupt, Invalid, NotFound, oci
from shipway.references import Reference
from shipway.remotes import open_remote

__all__ = ["registry", "repository"]


@pytest.fixture
def place(registry: str, repository: str, cache: Cache, tmp_path: Path) -> str:
    """An image of one gzip layer of 9 MB."""
    source = tmp_path / "source"
    source.mkdir()
    noise = random.Random(1)
    for number in range(60):
        (source / f"file-{number:02}").write_bytes(noise.randbytes(150_000))
    reference = f"oci://{registry}/{repository}:one"
    with cache.import_tree(source) as ref:
        ref.push(reference, compression="gzip")
    return reference


def test_who_takes_them_reads_a_layer_by_ranges_that_it_never_read(
    place: str, open_cache: OpenCache, tmp_path: Path
) -> None:
    with open_cache("reader").remote(place) as ref:
        size = ref.size()
        digest = ref.publish_indexes()
    other = open_cache("other")
    with other.remote(place) as ref:
        assert ref.take_indexes(digest) == 1
        before = ref.traffic
        done = ref.extract(tmp_path / "out", "file-30")
        assert done.traffic.requests == 1
        assert done.traffic.received < size // 4
        assert ref.traffic.received - before.received < size // 4
    assert (tmp_path / "out/file-30").read_bytes() == (tmp_path / "source/file-30").read_bytes()
    with open_cache("other").remote(place) as ref:
        assert ref.extract(tmp_path / "again", "file-50").traffic.received < size // 4


def test_of_what_was_pulled_they_are_made_without_fetching_it_again_and_stay_when_it_is_pruned(
    place: str, open_cache: OpenCache, tmp_path: Path
) -> None:
    reader = open_cache("reader")
    with reader.remote(place) as ref:
        size = ref.size()
        with ref.pull() as local:
            pulled = local.id
        before = ref.traffic.received
        digest = ref.publish_indexes()
        assert ref.traffic.received - before < 10_000
    assert [one.id for one in reader.prune(ids=[pulled])] == [pulled]
    with reader.remote(place) as ref:
        assert 0 < ref.extract(tmp_path / "out", "file-30").traffic.received < size // 4
    with open_cache("other").remote(place) as ref:
        assert ref.take_indexes(digest) == 1
        assert ref.extract(tmp_path / "again", "file-50").traffic.received < size // 4


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_of_what_was_pulled_one_file_costs_a_range_once_it_was_removed(
    registry: str, repository: str, open_cache: OpenCache, tmp_path: Path, compression: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(100):
        (source / f"file-{number:02}").write_bytes(random.Random(number).randbytes(150_000))
    place = f"oci://{registry}/{repository}:plain"
    with open_cache("writer").import_tree(source) as ref:
        ref.push(place, compression=compression)
    with open_cache("reader").remote(place) as ref:
        size = ref.size()
        local = ref.pull()
        local.release()
    reader = open_cache("reader")
    reader.prune(ids=[local.id])
    assert list(reader.disk_usage()) == []
    with reader.remote(place) as ref:
        before = ref.traffic
        assert ref.extract(tmp_path / "out", "file-30").traffic.requests == 1
        assert 150_000 <= ref.traffic.received - before.received < size // 3
    assert (tmp_path / "out/file-30").read_bytes() == (source / "file-30").read_bytes()


def test_nobody_uses_them_unasked(place: str, open_cache: OpenCache, tmp_path: Path) -> None:
    with open_cache("reader").remote(place) as ref:
        ref.publish_indexes()
        size = ref.size()
    with open_cache("other").remote(place) as ref:
        assert ref.extract(tmp_path / "out", "file-59").traffic.received > size // 2


def test_an_artifact_has_the_image_as_its_subject_and_a_tag_made_of_its_digest(
    place: str, open_cache: OpenCache
) -> None:
    with open_cache("reader").remote(place) as ref:
        digest = ref.publish_indexes()
        assert ref.publish_indexes() == digest
    remote = open_remote(Reference.parse(place))
    image, _ = remote.manifest("one")
    found, data = remote.manifest(image.digest.replace(":", "-") + ".shipway-index")
    remote.close()
    assert found.digest == digest
    assert json.loads(data)["subject"]["digest"] == image.digest


def test_those_of_another_image_and_what_is_none_are_refused(place: str, open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache("reader")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/f").write_bytes(b"more")
    other = place.replace(":one", ":two")
    with cache.import_tree(tmp_path / "more") as tree:
        tree.push(other, compression="gzip")
    with cache.remote(place) as ref, cache.remote(other) as another:
        digest = ref.publish_indexes()
        with pytest.raises(Invalid, match="no index"):
            another.take_indexes(digest)
        with pytest.raises(NotFound):
            ref.take_indexes(oci.sha256(b"nothing"))
        with pytest.raises(Invalid):
            ref.take_indexes("latest")
        with pytest.raises(Corrupt):
            ref.take_indexes(_put_damaged(place, digest))


def _put_damaged(place: str, digest: str) -> str:
    """Publish an artifact whose index is something else, and return its digest."""

    remote = open_remote(Reference.parse(place))
    _, data = remote.manifest(digest)
    document = json.loads(data)
    wrong = b"not an index"
    document["layers"][0] |= {"digest": oci.sha256(wrong), "size": len(wrong)}
    blob = oci.Descriptor(media_type="application/octet-stream", digest=oci.sha256(wrong), size=len(wrong))
    remote.put_blob(blob, lambda: io.BytesIO(wrong))
    data = json.dumps(document).encode()
    described = oci.Descriptor(media_type=oci.MANIFEST, digest=oci.sha256(data), size=len(data))
    remote.put_manifest(described, data, tag="damaged")
    remote.close()
    return described.digest


def test_layers_with_tables_of_contents_need_none(registry: str, repository: str, cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    place = f"oci://{registry}/{repository}:chunked"
    with cache.import_tree(tmp_path / "tree") as tree:
        tree.push(place)
    with cache.remote(place) as ref, pytest.raises(NotFound, match="index"):
        ref.publish_indexes()
