"""Images in another form: by a push, or from one registry to another; the trees stay what they are."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.caches import OpenCache, write
from support.registry import registry, repository
from support.trees import describe, make_varied_tree

from shipway import Cache, Invalid, LocalImmutableRef, oci
from shipway.errors import DigestMismatch
from shipway.layers.compression import Compression
from shipway.layers.formats import form_of
from shipway.oci import Descriptor, Manifest
from shipway.references import Reference
from shipway.remotes import open_remote
from shipway.transfer.images import Layer as ImageLayer
from shipway.transfer.images import find_image, make_image, read_diff_ids

__all__ = ["registry", "repository"]
FORMS = list(Compression)
KEEPING = [form for form in FORMS if form is not Compression.ESTARGZ]


@pytest.fixture
def place(registry: str, repository: str) -> str:
    return f"oci://{registry}/{repository}"


@pytest.fixture
def two_layers(cache: Cache, tmp_path: Path) -> Iterator[LocalImmutableRef]:
    tree = make_varied_tree(tmp_path / "tree")
    (tree / "large").write_bytes(os.urandom(3 << 20))
    with cache.import_tree(tree) as base, cache.new(base) as work:
        write(work, changed="something")
        with work.commit() as ref:
            yield ref


def image(reference: str) -> tuple[Manifest, list[str]]:
    remote = open_remote(Reference.parse(reference))
    try:
        found = find_image(remote, Reference.parse(reference).target)
        return found.manifest, read_diff_ids(remote, found)
    finally:
        remote.close()


def forms(manifest: Manifest) -> set[Compression]:
    return {form_of(layer) for layer in manifest.layers}


@contextmanager
def foreign_image(reference: str, tmp_path: Path) -> Iterator[Path]:
    """Put an image that another program's tar and gzip made; yield its tree as tar unpacks it."""
    tree = make_varied_tree(tmp_path / "foreign")
    (tree / "large").write_bytes(os.urandom(3 << 20))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tree, ".")
    plain = archive.getvalue()
    blob = gzip.compress(plain)
    layer = Descriptor(media_type=oci.DOCKER_LAYER_GZIP, digest=oci.sha256(blob), size=len(blob))
    config, config_descriptor, manifest, descriptor = make_image([ImageLayer(layer, oci.sha256(plain), 0, "")])
    remote = open_remote(Reference.parse(reference))
    try:
        remote.put_blob(layer, lambda: io.BytesIO(blob))
        remote.put_blob(config_descriptor, lambda: io.BytesIO(config))
        remote.put_manifest(descriptor, manifest, tag=Reference.parse(reference).target)
    finally:
        remote.close()
    yield tree


@pytest.mark.parametrize("form", FORMS)
def test_a_push_packs_new_layers_in_the_form_that_is_asked_for(
    place: str, two_layers: LocalImmutableRef, open_cache: OpenCache, tmp_path: Path, form: Compression
) -> None:
    place += ":new"
    two_layers.push(place, compression=form)
    manifest, _ = image(place)
    assert forms(manifest) == {form}
    two_layers.extract(tmp_path / "local", "/")
    other = open_cache("other")
    with other.remote(place) as remote:
        remote.extract(tmp_path / "ranged", "/")
    with other.remote(place) as remote, remote.pull() as pulled:
        pulled.extract(tmp_path / "pulled", "/")
        assert pulled.checksum("/") == two_layers.checksum("/")
    assert describe(tmp_path / "local") == describe(tmp_path / "ranged") == describe(tmp_path / "pulled")


def test_without_force_what_is_there_is_sent_as_it_is(place: str, cache: Cache, two_layers: LocalImmutableRef) -> None:
    first = two_layers.push(f"{place}:one")
    again = two_layers.push(f"{place}:two", compression="gzip")
    assert again.digest == first.digest
    with cache.remote(f"{place}:one") as remote:
        assert cache.push(remote, f"{place}:three", compression="gzip").digest


def test_of_several_forms_that_are_here_the_one_that_is_asked_for_is_sent(
    place: str, two_layers: LocalImmutableRef
) -> None:
    first = two_layers.push(f"{place}:one")
    forced = two_layers.push(f"{place}:two", compression="gzip", force=True)
    assert two_layers.push(f"{place}:three", compression="gzip").digest == forced.digest
    again = two_layers.push(f"{place}:one")
    assert (again.digest, again.traffic.requests, again.traffic.sent) == (first.digest, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("form", [Compression.ZSTD_CHUNKED, Compression.ESTARGZ, Compression.UNCOMPRESSED])
def test_force_packs_all_layers_again_and_keeps_the_diff_ids(
    place: str, two_layers: LocalImmutableRef, form: Compression
) -> None:
    start = "gzip" if form is not Compression.GZIP else "zstd"
    two_layers.push(f"{place}:one", compression=start)
    two_layers.push(f"{place}:two", compression=form, force=True)
    (before, diff_ids), (after, others) = image(f"{place}:one"), image(f"{place}:two")
    assert (forms(before), forms(after)) == ({Compression(start)}, {form})
    assert (others == diff_ids) == (form in KEEPING)
    back = two_layers.push(f"{place}:three", compression=start, force=True)
    assert image(f"{place}:three")[0].layers == before.layers
    assert back.layers_moved == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", [Compression.ZSTD_CHUNKED, Compression.ESTARGZ, Compression.ZSTD])
def test_an_image_is_converted_from_one_registry_to_another(
    place: str, cache: Cache, open_cache: OpenCache, tmp_path: Path, form: Compression
) -> None:
    source, target = f"{place}:foreign", f"{place}-converted:new"
    with foreign_image(source, tmp_path), cache.remote(source) as remote:
        cache.push(remote, target, compression=form, force=True)
        (_, diff_ids), (manifest, others) = image(source), image(target)
        assert forms(manifest) == {form}
        assert (others == diff_ids) == (form in KEEPING)
        remote.extract(tmp_path / "before", "/")
        with cache.remote(target) as converted:
            converted.extract(tmp_path / "ranged", "/")
        with open_cache("other").remote(target) as converted, converted.pull() as pulled:
            pulled.extract(tmp_path / "pulled", "/")
    assert describe(tmp_path / "before") == describe(tmp_path / "ranged") == describe(tmp_path / "pulled")


@pytest.mark.slow
def test_a_level_with_force_packs_again_also_what_has_the_form(place: str, two_layers: LocalImmutableRef) -> None:
    two_layers.push(f"{place}:fast", compression="zstd", level=1)
    two_layers.push(f"{place}:small", compression="zstd", level=19, force=True)
    (fast, diff_ids), (small, others) = image(f"{place}:fast"), image(f"{place}:small")
    assert others == diff_ids
    assert sum(layer.size for layer in small.layers) < sum(layer.size for layer in fast.layers)


def test_a_layer_that_is_not_what_its_image_says_is_not_converted(place: str, cache: Cache, tmp_path: Path) -> None:
    source, target = f"{place}:wrong", f"{place}-wrong:new"
    with foreign_image(source, tmp_path):
        manifest, _ = image(source)
    config, described, document, descriptor = make_image([ImageLayer(manifest.layers[0], oci.sha256(b"other"), 0, "")])
    remote = open_remote(Reference.parse(source))
    remote.put_blob(described, lambda: io.BytesIO(config))
    remote.put_manifest(descriptor, document, tag="wrong")
    remote.close()
    with cache.remote(source) as wrong, pytest.raises(DigestMismatch, match="unpacked"):
        cache.push(wrong, target, compression="zstd", force=True)
    assert not list((cache.root / "ingest").iterdir())


@pytest.mark.parametrize(("compression", "level"), [("lzma", None), ("gzip", 9), ("zstd", 99)])
def test_what_there_is_not_is_refused_before_anything_moves(
    two_layers: LocalImmutableRef, compression: str, level: int | None
) -> None:
    with pytest.raises(Invalid, match="choose one"):
        two_layers.push("oci://127.0.0.1:1/none:x", compression=compression, level=level)
