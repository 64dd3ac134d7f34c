"""Real programs of others take what we push, and we take what they push."""

from __future__ import annotations

import gzip
import io
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.images import copy_tree, pack_layer
from support.programs import Containerd, Podman, need, run, skopeo_copy
from support.trees import Seen, describe

from shipway import Cache, Way, oci
from shipway.layers.chunked import CHECKSUM, ESTARGZ, OLD_PREFIX
from shipway.layers.compression import Compression
from shipway.references import Reference
from shipway.remote_handles import RemoteHandle
from shipway.remotes import open_remote
from shipway.transfer.images import Layer, make_image

pytestmark = [pytest.mark.root, pytest.mark.slow]


OF_STARGZ = (".no.prefetch.landmark", "stargz.index.json")
"""Files that are in each eStargz layer, and the first in what stargz-snapshotter writes as zstd:chunked."""
RAW = os.fsdecode(b"not-utf8-\xff\xfe")


def put_gzip_image(host: str, trees: list[Path], compression: Compression = Compression.GZIP) -> str:
    """Push an image of gzip layers, as most are, or of eStargz, and return its name."""
    place = Reference.parse(f"oci://{host}/gzip/{uuid.uuid4().hex}:v1")
    remote = open_remote(place)
    layers = []
    for lower, upper in zip([None, *trees[:-1]], trees, strict=True):
        descriptor, blob = pack_layer(lower, upper, compression)
        remote.put_blob(descriptor, partial(io.BytesIO, blob))
        layers.append(Layer(descriptor, oci.sha256(gzip.decompress(blob)), 0, "made by a test"))
    config, config_descriptor, manifest, descriptor = make_image(layers)
    remote.put_blob(config_descriptor, partial(io.BytesIO, config))
    remote.put_manifest(descriptor, manifest, tag=place.tag)
    remote.close()
    return str(place).removeprefix("oci://")


@pytest.fixture
def fresh(trees: list[Path], tmp_path: Path) -> list[Path]:
    """The trees with something new in each: podman and skopeo remember blobs, and reuse them."""
    found = [copy_tree(tree, tmp_path / f"fresh-{number}") for number, tree in enumerate(trees)]
    noise = os.urandom(5 << 20)
    for tree in found:
        (tree / "noise").write_bytes(noise)
    (found[-1] / "more-noise").write_bytes(os.urandom(1000))
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache.open(tmp_path / "mine") as cache:
        yield cache


def below(root: Path) -> dict[str, Seen]:
    """Describe a tree without the time of its root, which podman and containerd do not keep."""
    seen = describe(root)
    seen[""] = replace(seen[""], mtime_ns=0)
    return seen


def extracted(cache: Cache, reference: str, out: Path) -> dict[str, Seen]:
    """Describe what is extracted from an image without pulling it."""
    with cache.remote(reference) as ref:
        ref.extract(out)
    return describe(out)


def pulled(cache: Cache, reference: str) -> dict[str, Seen]:
    with cache.remote(reference) as ref, ref.pull() as local, local.mounted() as path:
        return describe(path)


def test_umoci_unpacks_what_we_push(host: str, tree: Path, tmp_path: Path) -> None:
    need("umoci", "umoci")
    layout = f"oci:{tmp_path}/layout:v1"  # as gzip, since umoci 0.4 knows no zstd
    skopeo_copy(f"docker://{host}/team/image:v1", layout, "--dest-compress-format", "gzip")
    run("umoci", "unpack", "--image", layout.removeprefix("oci:"), tmp_path / "bundle")
    assert describe(tmp_path / "bundle/rootfs") == describe(tree)


def test_podman_pulls_what_we_push(host: str, tree: Path, podman: Podman) -> None:
    assert below(podman.pull(f"{host}/team/image:v1")) == below(tree)


def test_we_take_what_podman_pushes(host: str, fresh: list[Path], podman: Podman, cache: Cache, tmp_path: Path) -> None:
    image = put_gzip_image(host, fresh)
    podman.pull(image)
    for compression in ("gzip", "zstd"):
        back = f"{host}/back/{uuid.uuid4().hex}:v1"
        podman.push(image, back, compression)
        assert extracted(cache, f"oci://{back}", tmp_path / compression) == describe(fresh[-1])
        assert pulled(cache, f"oci://{back}") == describe(fresh[-1])


def check_table(
    cache: Cache, reference: str, tree: Path, out: Path, *, promise: str = OLD_PREFIX + CHECKSUM, times: bool = True
) -> None:
    """Check that an image has tables, by default zstd:chunked's first, and that single files are taken out by ranges.

    Its writers replace what is not UTF-8 in a name by U+FFFD in the table of contents; only the tar has it right.
    Without `times` they round times to seconds.
    """
    with cache.remote(reference) as ref:
        assert isinstance(ref, RemoteHandle)
        for layer in ref.layers:
            assert promise in layer.descriptor.annotations
        assert ref.size() > 4 << 20
        before = ref.traffic
        with ref.open("/usr/new") as file:
            assert file.read() == (tree / "usr/new").read_bytes()
        assert (ref.traffic - before).received < 1 << 20
    whole, there, seen = describe(tree), pulled(cache, reference), extracted(cache, reference, out)
    told = {path: one for path, one in whole.items() if path != RAW}
    replaced = "not-utf8-\ufffd\ufffd"
    told[replaced] = replace(whole[RAW], names=(replaced,))
    for described in (whole, there, told, seen):
        for name in OF_STARGZ:
            described.pop(name, None)
        if not times:
            described.update({path: replace(one, mtime_ns=0) for path, one in described.items()})
    assert seen == told
    assert there == whole


def test_we_take_zstd_chunked_as_podman_writes_it(  # noqa: PLR0917  each is a thing it needs
    own_host: str, registry: str, fresh: list[Path], podman: Podman, cache: Cache, tmp_path: Path
) -> None:
    image = put_gzip_image(registry, fresh)  # not where it is pushed to: podman would reuse its layers there
    podman.pull(image)
    back = f"{own_host}/back/{uuid.uuid4().hex}:v1"
    podman.push(image, back, "zstd:chunked")
    check_table(cache, f"oci://{back}", fresh[-1], tmp_path / "out")


def test_we_take_zstd_chunked_as_skopeo_writes_it(
    registry: str, fresh: list[Path], cache: Cache, tmp_path: Path
) -> None:
    image = put_gzip_image(registry, fresh)
    back = f"{registry}/back/{uuid.uuid4().hex}:v1"
    skopeo_copy(f"docker://{image}", f"docker://{back}", "--dest-compress-format", "zstd:chunked")
    check_table(cache, f"oci://{back}", fresh[-1], tmp_path / "out")


def test_containerd_pulls_what_we_push(host: str, tree: Path, containerd: Containerd, tmp_path: Path) -> None:
    containerd.pull(f"{host}/team/image:v1")
    with containerd.mounted(f"{host}/team/image:v1", tmp_path / "mnt") as path:
        assert below(path) == below(tree)


def test_we_pull_what_containerd_pushes(host: str, fresh: list[Path], containerd: Containerd, cache: Cache) -> None:
    image = put_gzip_image(host, fresh)
    containerd.pull(image)
    back = f"{host}/back/{uuid.uuid4().hex}:v1"
    containerd.ctr("images", "convert", "--uncompress", image, back)
    containerd.ctr("images", "push", "--plain-http", back)
    assert pulled(cache, f"oci://{back}") == describe(fresh[-1])


def test_we_take_zstd_chunked_as_stargz_snapshotter_writes_it(
    own_host: str, fresh: list[Path], containerd: Containerd, cache: Cache, tmp_path: Path
) -> None:
    image = put_gzip_image(own_host, fresh)
    containerd.pull(image)
    back = f"{own_host}/back/{uuid.uuid4().hex}:v1"
    containerd.ctr_remote("images", "convert", "--zstdchunked", "--oci", image, back)
    containerd.ctr("images", "push", "--plain-http", back)
    check_table(cache, f"oci://{back}", fresh[-1], tmp_path / "out", times=False)


def test_we_take_estargz_as_stargz_snapshotter_writes_it(
    own_host: str, fresh: list[Path], containerd: Containerd, cache: Cache, tmp_path: Path
) -> None:
    image = put_gzip_image(own_host, fresh)
    containerd.pull(image)
    back = f"{own_host}/back/{uuid.uuid4().hex}:v1"
    containerd.ctr_remote("images", "convert", "--estargz", "--oci", image, back)
    containerd.ctr("images", "push", "--plain-http", back)
    check_table(cache, f"oci://{back}", fresh[-1], tmp_path / "out", promise=ESTARGZ, times=False)


def test_of_estargz_as_stargz_snapshotter_writes_it_a_pull_moves_the_chunks_that_changed(
    own_host: str, tree: Path, containerd: Containerd, cache: Cache, tmp_path: Path
) -> None:
    changing = copy_tree(tree, tmp_path / "changing")
    noise = bytearray(os.urandom(30 << 20))
    reports = []
    for number in range(2):
        noise[15 << 20] = number
        (changing / "noise").write_bytes(noise)
        image = put_gzip_image(own_host, [changing])
        containerd.pull(image)
        back = f"{own_host}/back/{uuid.uuid4().hex}:v1"
        containerd.ctr_remote("images", "convert", "--estargz", "--oci", image, back)
        containerd.ctr("images", "push", "--plain-http", back)
        with cache.remote(f"oci://{back}") as ref, ref.pull() as local, local.mounted() as path:
            seen, wanted = describe(path), describe(changing)
            reports.append(cache.explain_ref(local.id).pulled)
        for one in (seen, wanted):  # times become those of whole seconds
            one.update({path: replace(found, mtime_ns=0) for path, found in one.items()})
        assert seen == wanted
    first, second = reports
    assert first is not None
    assert second is not None
    assert [layer.way for layer in (*first.layers, *second.layers)] == [Way.FETCHED, Way.ASSEMBLED]
    assert second.fetched < 12 << 20  # a chunk of 4 MiB, and what is left of the file after the last whole one


def test_stargz_snapshotter_takes_estargz_as_we_write_it(
    own_host: str, fresh: list[Path], containerd: Containerd, cache: Cache, tmp_path: Path
) -> None:
    image = put_gzip_image(own_host, fresh, Compression.ESTARGZ)
    containerd.pull(image)
    with cache.remote(f"oci://{image}") as ref:
        assert isinstance(ref, RemoteHandle)
        for layer in ref.layers:
            digest = containerd.ctr_remote("images", "get-toc-digest", layer.descriptor.digest).strip()
            assert digest == layer.descriptor.annotations[ESTARGZ]
    with containerd.mounted(image, tmp_path / "mnt") as path:
        seen = below(path)
        for name in OF_STARGZ:
            seen.pop(name, None)
        assert seen == below(fresh[-1])


def test_containerd_and_podman_read_our_estargz(  # noqa: PLR0917  each is a thing it needs
    own_host: str, tree: Path, containerd: Containerd, podman: Podman, cache: Cache, tmp_path: Path
) -> None:
    image = f"{own_host}/estargz/{uuid.uuid4().hex}:v1"
    with cache.import_tree(tree) as ref:
        ref.push(f"oci://{image}", compression="estargz")
    containerd.pull(image)
    with containerd.mounted(image, tmp_path / "mnt") as path:
        seen = below(path)
    assert all(seen.pop(name).content for name in OF_STARGZ)
    assert seen == below(tree)
    # It finds the footer and the table, or it would convert the layer instead of keeping it.
    containerd.ctr_remote("images", "optimize", "--no-optimize", "--reuse", "--oci", image, f"{image}-optimized")
    assert (podman.pull(image) / "bin/tool").read_bytes() == (tree / "bin/tool").read_bytes()
