"""Images as Docker has them: its own media types, and layers that are not in the registry."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.contents import blob, manifest_of, opening
from support.images import pack_layer
from support.misbehaving import Exchange, misbehaving
from support.registry import docker_registry
from support.trees import Seen, describe, make_varied_tree

from shipway import Cache, Corrupt, LocalImmutableRef, Missing, UnknownMediaType, oci
from shipway.layers.compression import Compression
from shipway.oci import Descriptor
from shipway.references import Reference
from shipway.remotes import open_remote
from shipway.transfer.images import find_image

SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Cache, Cache]]:
    """Yield the store that makes images, and the one that reads them."""
    with Cache.open(tmp_path / "one", driver="native") as one, Cache.open(tmp_path / "two", driver="native") as two:
        yield one, two


def shown(ref: LocalImmutableRef) -> dict[str, Seen]:
    with ref.mounted() as path:
        return describe(path)


class Image:
    """An image of one layer in gzip, which is all that Docker's types can say."""

    def __init__(self, tree: Path) -> None:
        layer, self.data = pack_layer(None, tree, Compression.GZIP)
        diff_ids = (oci.sha256(gzip.decompress(self.data)),)
        self.config = oci.encode(
            oci.ImageConfig(architecture="amd64", os="linux", rootfs=oci.RootFS(diff_ids=diff_ids))
        )
        self.layer = layer


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_an_image_in_dockers_schema_2_is_read(
    registry: str, repository: str, stores: tuple[Cache, Cache], tmp_path: Path
) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    made = Image(tree)
    remote = open_remote(Reference.parse(f"oci://{registry}/{repository}"))
    for data, kind in ((made.config, oci.CONFIG), (made.data, oci.LAYER_GZIP)):
        remote.put_blob(blob(data, kind), opening(data))
    remote.put_manifest(*manifest_of(blob(made.config, oci.CONFIG), made.layer), tag="oci")
    place = f"docker://{registry}/{repository}"
    command = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    done = subprocess.run(
        [*command, "--format", "v2s2", f"{place}:oci", f"{place}:docker"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    image = find_image(remote, "docker")
    remote.close()
    assert image.descriptor.media_type == oci.DOCKER_MANIFEST
    assert [layer.media_type for layer in image.manifest.layers] == [oci.DOCKER_LAYER_GZIP]
    with stores[0].remote(f"oci://{registry}/{repository}:docker") as found:
        found.extract(tmp_path / "out")
        assert describe(tmp_path / "out") == describe(tree)
        with found.pull() as pulled:
            assert shown(pulled) == describe(tree)


def test_an_image_in_schema_1_is_named_as_what_it_is(stores: tuple[Cache, Cache]) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b'{"schemaVersion": 1, "fsLayers": []}', content_type=SCHEMA_1)

    with misbehaving(behave) as server, pytest.raises(UnknownMediaType, match="v1"):
        stores[1].remote(f"oci://{server.host}/x:y")


# Foreign layers


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a registry that takes manifests of layers that it has not got."""
    with docker_registry(
        tmp_path_factory.mktemp("lenient"), "validation: {manifests: {urls: {allow: ['^https?://']}}}\n"
    ) as host:
        yield host


class Foreign(Image):
    """An image whose only layer is somewhere else."""

    def put(self, reference: str, *urls: str) -> None:
        """Put its manifest and configuration; its layer is said to be at `urls`."""
        place = Reference.parse(reference)
        remote = open_remote(place)
        config = blob(self.config, oci.DOCKER_CONFIG)
        remote.put_blob(config, opening(self.config))
        layer = Descriptor(media_type=FOREIGN, digest=self.layer.digest, size=self.layer.size, urls=urls)
        remote.put_manifest(*manifest_of(config, layer, media_type=oci.DOCKER_MANIFEST), tag=place.tag)
        remote.close()

    def serve(self, exchange: Exchange) -> None:
        """Answer with the layer, unless there are credentials: they are not for this host."""
        assert exchange.headers.get("authorization") is None
        exchange.answer(200 if exchange.path == "/layer" else 404, self.data)


def test_a_layer_that_is_elsewhere_is_read_from_there(
    lenient: str, registry: str, stores: tuple[Cache, Cache], tmp_path: Path
) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    foreign = Foreign(tree)
    one, two = stores
    with misbehaving(foreign.serve, "localhost") as elsewhere:
        reference = f"oci://{lenient}/foreign/image:x"
        foreign.put(reference, f"http://{elsewhere.host}/gone", f"http://{elsewhere.host}/layer")
        with one.remote(reference) as remote:
            remote.extract(tmp_path / "out")
            assert describe(tmp_path / "out") == describe(tree)
            with remote.pull() as pulled:
                assert shown(pulled) == describe(tree)
                pulled.push(f"oci://{registry}/once/foreign:local")  # from here on it is like any other
            one.push(remote, f"oci://{registry}/once/foreign:remote")
    for tag in ("local", "remote"):
        with two.remote(f"oci://{registry}/once/foreign:{tag}") as remote, remote.pull() as pulled:
            assert shown(pulled) == describe(tree)


def test_a_layer_that_is_nowhere_is_a_miss(lenient: str, stores: tuple[Cache, Cache], tmp_path: Path) -> None:
    foreign = Foreign(make_varied_tree(tmp_path / "tree"))
    with misbehaving(foreign.serve) as elsewhere:
        foreign.put(f"oci://{lenient}/foreign/gone:x", f"http://{elsewhere.host}/gone")
        with stores[0].remote(f"oci://{lenient}/foreign/gone:x") as remote:
            with pytest.raises(Missing, match=foreign.layer.digest):
                remote.pull()
            assert "/gone" in elsewhere.paths("GET")


def test_a_layer_that_is_elsewhere_is_checked(lenient: str, stores: tuple[Cache, Cache], tmp_path: Path) -> None:
    foreign = Foreign(make_varied_tree(tmp_path / "tree"))
    reference = f"oci://{lenient}/foreign/changed:x"
    changed = bytes(len(foreign.data))
    with misbehaving(lambda exchange: exchange.answer(200, changed)) as elsewhere:
        foreign.put(reference, f"http://{elsewhere.host}/layer")
        with stores[0].remote(reference) as remote, pytest.raises(Corrupt):
            remote.pull()
    assert stores[0].verify() == []
