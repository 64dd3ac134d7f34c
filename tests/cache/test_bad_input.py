"""Bad input from a registry: each kind has its own typed error that names the thing, and the store is as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.caches import OpenCache, counts, read, snapshots_on_disk, write
from support.registry import docker_registry
from support.trees import describe, make_varied_tree

from shipway import (
    Cache,
    Corrupt,
    DigestMismatch,
    NotFound,
    RepositoryNotFound,
    SizeMismatch,
    Truncated,
    Unauthorized,
    UnknownMediaType,
)
from shipway.oci import sha256

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


class Image:
    """An image in a docker-registry whose files can be tampered with."""

    def __init__(self, cache: Cache, root: Path, host: str, tree: Path) -> None:
        self.root = root
        self.reference = f"oci://{host}/acme/tree:one"
        with cache.import_tree(tree) as ref:
            self.digest = ref.push(self.reference).digest
        self.manifest = json.loads(self.data(self.digest).read_bytes())
        self.layer = self.manifest["layers"][0]["digest"]

    def data(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob or manifest."""
        name = digest.removeprefix("sha256:")
        return self.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def put_manifest(self, manifest: object) -> None:
        """Put another manifest under the tag, behind the registry's back."""
        data = json.dumps(manifest).encode()
        digest = sha256(data)
        self.data(digest).parent.mkdir(parents=True, exist_ok=True)
        self.data(digest).write_bytes(data)
        name = digest.removeprefix("sha256:")
        base = self.root / "docker/registry/v2/repositories/acme/tree/_manifests"
        for link in (f"revisions/sha256/{name}", "tags/one/current", f"tags/one/index/sha256/{name}"):
            (base / link).mkdir(parents=True, exist_ok=True)
            (base / link / "link").write_text(digest)


@pytest.fixture
def image(open_cache: OpenCache, tmp_path: Path) -> Iterator[Image]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield Image(open_cache("maker"), tmp_path / "registry/data", host, make_varied_tree(tmp_path / "tree"))


@contextmanager
def untouched(cache: Cache, out: Path) -> Iterator[None]:
    """Check that the block leaves a store, and a directory to extract into, as they were."""
    out.mkdir(exist_ok=True)
    (out / "mine").write_text("mine")
    with cache.new() as work:
        write(work, kept="kept")
        kept = work.commit()
        kept.finalize()
    before = describe(out), counts(cache), snapshots_on_disk(cache), sorted(os.listdir(cache.root / "blobs/sha256"))
    yield
    after = describe(out), counts(cache), snapshots_on_disk(cache), sorted(os.listdir(cache.root / "blobs/sha256"))
    assert after == before
    assert os.listdir(cache.root / "ingest") == []
    assert read(kept, "kept") == "kept"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


Damage = Callable[[Image], None]


def flipped_layer(image: Image) -> None:
    flip(image.data(image.layer), 1000)


def short_layer(image: Image) -> None:
    path = image.data(image.layer)
    path.write_bytes(path.read_bytes()[:-500])


def flipped_config(image: Image) -> None:
    flip(image.data(image.manifest["config"]["digest"]), 20)


def changed_layer(**changes: object) -> Damage:
    def damage(image: Image) -> None:
        layer = image.manifest["layers"][0] | changes
        image.put_manifest(image.manifest | {"layers": [layer]})

    return damage


def wrong_diff_id(image: Image) -> None:
    config = json.loads(image.data(image.manifest["config"]["digest"]).read_bytes())
    config["rootfs"]["diff_ids"] = ["sha256:" + "1" * 64]
    data = json.dumps(config).encode()
    digest = sha256(data)
    image.data(digest).parent.mkdir(parents=True)
    image.data(digest).write_bytes(data)
    link = image.root / "docker/registry/v2/repositories/acme/tree/_layers/sha256" / digest.removeprefix("sha256:")
    link.mkdir(parents=True)
    (link / "link").write_text(digest)
    image.put_manifest(image.manifest | {"config": image.manifest["config"] | {"digest": digest, "size": len(data)}})


CASES = [
    pytest.param(flipped_layer, DigestMismatch, "LAYER", id="a flipped byte in a layer"),
    pytest.param(short_layer, Truncated, "LAYER", id="a layer that ends early"),
    pytest.param(flipped_config, DigestMismatch, "CONFIG", id="a flipped byte in the configuration"),
    pytest.param(changed_layer(size=10), (SizeMismatch, Truncated), "LAYER", id="a size that is too small"),
    pytest.param(changed_layer(size=10**9), Truncated, "LAYER", id="a size that is too large"),
    pytest.param(changed_layer(size=-1), Corrupt, "acme/tree", id="a size below zero"),
    pytest.param(changed_layer(mediaType="text/html"), UnknownMediaType, "text/html", id="an unknown media type"),
    pytest.param(changed_layer(digest="sha256:../../etc"), Corrupt, "acme/tree", id="a digest that is none"),
    pytest.param(changed_layer(digest="sha256:" + "0" * 64), NotFound, "0" * 64, id="a layer that is not there"),
    pytest.param(wrong_diff_id, DigestMismatch, "1" * 64, id="another DiffID"),
]


@pytest.mark.parametrize(("damage", "error", "named"), CASES)
def test_a_pull_of_what_is_damaged_fails_and_leaves_the_store_as_it_was(
    image: Image, cache: Cache, damage: Damage, error: type[Exception], named: str
) -> None:
    damage(image)
    named = named.replace("LAYER", image.layer).replace("CONFIG", image.manifest["config"]["digest"])

    def pull() -> None:
        with cache.remote(image.reference) as remote:
            remote.pull()

    with untouched(cache, image.root.parent / "out"), pytest.raises(error) as raised:
        pull()
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def flipped_table(image: Image) -> None:
    annotations = image.manifest["layers"][0]["annotations"]
    position = annotations["io.github.containers.zstd-chunked.manifest-position"]
    flip(image.data(image.layer), int(position.split(":")[0]) + 30)


def flipped_chunks(image: Image) -> None:
    data = bytearray(image.data(image.layer).read_bytes())
    annotations = image.manifest["layers"][0]["annotations"]
    end = int(annotations["io.github.containers.zstd-chunked.manifest-position"].split(":")[0]) - 8
    for position in range(200, end, 97):
        data[position] ^= 0x55
    image.data(image.layer).write_bytes(data)


@pytest.mark.parametrize("damage", [flipped_table, flipped_chunks, short_layer])
def test_an_extract_of_what_is_damaged_fails_and_leaves_the_destination_as_it_was(
    image: Image, open_cache: OpenCache, tmp_path: Path, damage: Damage
) -> None:
    damage(image)
    cache = open_cache("mine")
    with (
        untouched(cache, tmp_path / "out"),
        cache.remote(image.reference) as remote,
        pytest.raises(Corrupt, match="sha256:"),
    ):
        remote.extract(tmp_path / "out", "big", "bin")


def test_a_repository_or_tag_that_is_not_there_is_named(image: Image, cache: Cache) -> None:
    host = image.reference.split("/")[2]
    with pytest.raises(RepositoryNotFound, match="nobody/home"):
        cache.remote(f"oci://{host}/nobody/home:one")
    with pytest.raises(NotFound, match="acme/tree:two"):
        cache.remote(f"oci://{host}/acme/tree:two")


def test_a_wrong_password_is_unauthorized_and_not_repeated_in_the_message(
    password_registry: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {password_registry: {"username": "me", "password": "wr0ng"}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
    for work in (
        lambda: cache.remote(f"oci://{password_registry}/a"),
        lambda: cache.import_tree(make_varied_tree(tmp_path / "tree")).push(f"oci://{password_registry}/a"),
    ):
        with pytest.raises(Unauthorized, match=password_registry) as raised:
            work()
        assert "wr0ng" not in str(raised.value)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_what_is_pushed_is_an_image_that_others_inspect_and_copy(image: Image, tmp_path: Path) -> None:
    place = image.reference.replace("oci://", "docker://")
    shown = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", place], check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(shown)["Layers"] == [image.layer]
    target = f"oci:{tmp_path / 'copy'}:one"
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", place, target],
        check=True,
        capture_output=True,
    )
    copied = tmp_path / "copy/blobs/sha256" / image.layer.removeprefix("sha256:")
    assert copied.read_bytes() == image.data(image.layer).read_bytes()
