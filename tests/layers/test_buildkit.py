"""Layers that BuildKit made, in every compression it has."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from support.layers import Collected, cut

from shipway import oci
from shipway.layers.compression import compression_of
from shipway.layers.read import read_layer
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.entry import Entry

FIXTURES = Path(__file__).parent.parent / "fixtures" / "buildkit"
GZIP, ZSTD, ESTARGZ = "image.oci.tar", "cache-zstd.oci.tar", "cache-estargz.oci.tar"
EVERY = pytest.mark.parametrize("name", [GZIP, ZSTD, ESTARGZ])


def layers_of(name: str) -> list[tuple[Descriptor, str, bytes]]:
    """Return descriptor, DiffID and blob of each layer in an OCI layout."""
    with tarfile.open(FIXTURES / name) as archive:
        files = {
            member.name.removeprefix("./"): opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }

    def blob(digest: str) -> bytes:
        return files["blobs/sha256/" + digest.removeprefix("sha256:")]

    entry = json.loads(files["index.json"])["manifests"][0]
    manifest = oci.decode(blob(entry["digest"]), oci.Manifest, name)
    config = json.loads(blob(manifest.config.digest))
    in_config = config.get("rootfs", {}).get("diff_ids", [""] * len(manifest.layers))
    return [
        (layer, layer.annotations.get(oci.UNCOMPRESSED) or diff_id, blob(layer.digest))
        for layer, diff_id in zip(manifest.layers, in_config, strict=True)
    ]


@EVERY
def test_every_layer_unpacks_to_the_diff_id_that_buildkit_wrote(name: str) -> None:
    layers = layers_of(name)
    assert layers
    for descriptor, diff_id, blob in layers:
        assert diff_id
        sink = Collected()
        assert unpack(cut(blob), descriptor, diff_id, sink).entries == len(sink.entries) > 0


@EVERY
def test_reading_a_layer_gives_the_same_as_unpacking_it(name: str) -> None:
    for descriptor, diff_id, blob in layers_of(name):
        one, other = Collected(), Collected()
        unpack(cut(blob), descriptor, diff_id, one)
        for entry, content in read_layer(cut(blob), descriptor.media_type):
            other.add(entry, content)
        assert (one.entries, one.contents) == (other.entries, other.contents)


def test_all_compressions_are_there() -> None:
    seen = {compression_of(layer.media_type) for name in (GZIP, ZSTD, ESTARGZ) for layer, _, _ in layers_of(name)}
    assert {str(one) for one in seen} == {"gzip", "zstd"}


@pytest.mark.parametrize("name", [GZIP, ZSTD])
def test_what_the_build_did_is_in_the_entries(name: str) -> None:
    found: dict[tuple[str, str], Entry] = {}
    contents: dict[str, bytes] = {}
    for descriptor, diff_id, blob in layers_of(name):
        sink = Collected()
        unpack(cut(blob), descriptor, diff_id, sink)
        found |= {(entry.path, entry.kind): entry for entry in sink.entries}
        contents |= sink.contents
    assert ("deps/pkg/m3.py", "whiteout") in found
    assert found["deps/pkg/m4.py", "hardlink"].link == "deps/pkg/m4-hard.py"
    assert found["deps/fifo", "fifo"].size == 0
    assert found["opt/new", "dir"].mode == 0o1755
    assert found["data/text.txt", "reg"].mode == 0o4755
    assert contents["opt/app/conf"] == b"v2\n"
