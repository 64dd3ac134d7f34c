"""OCI layouts and archives: read from and written for the tools that have them, and hostile ones."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.contents import blob, manifest_of, opening, put, put_image, random_bytes, read
from support.trees import describe, make_varied_tree

from shipway import Cache, oci
from shipway.errors import Corrupt, Invalid, NotFound, ShipwayError, UnsafeEntry
from shipway.references import Reference
from shipway.remotes import Remote, open_remote

FIXTURES = Path(__file__).parent.parent / "fixtures" / "buildkit"
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
needs_umoci = pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")


@contextmanager
def opened(reference: str) -> Iterator[Remote]:
    remote = open_remote(Reference.parse(reference))
    try:
        yield remote
    finally:
        remote.close()


def skopeo(*args: str) -> str:
    done = subprocess.run(["skopeo", "--insecure-policy", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache.open(tmp_path / "store", driver="native") as cache:
        yield cache


# With other tools


@needs_skopeo
@pytest.mark.parametrize("kind", ["oci-archive", "oci-layout"])
def test_what_skopeo_writes_is_pulled_and_extracted_exactly(kind: str, cache: Cache, tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    with cache.import_tree(tree) as ref:
        ref.push(f"oci-layout://{tmp_path}/layout:mine")
    skopeo("copy", f"oci:{tmp_path}/layout:mine", f"{kind.replace('oci-layout', 'oci')}:{tmp_path}/theirs:1.0")
    with Cache.open(tmp_path / "other", driver="native") as other:
        with other.remote(f"{kind}://{tmp_path}/theirs:1.0") as remote, remote.pull() as pulled:
            pulled.extract(tmp_path / "pulled")
            remote.extract(tmp_path / "extracted")
        with pytest.raises(NotFound):
            other.remote(f"{kind}://{tmp_path}/theirs:2.0")
    expected = describe(tree)
    assert describe(tmp_path / "pulled") == expected
    assert describe(tmp_path / "extracted") == expected


@needs_skopeo
def test_a_docker_archive_of_skopeos_is_the_image_it_was_made_of(cache: Cache, tmp_path: Path) -> None:
    image = FIXTURES / "image.oci.tar"
    skopeo("copy", f"oci-archive:{image}", f"docker-archive:{tmp_path}/docker.tar:tool:1.0")
    with cache.remote(f"oci-archive://{image}") as remote:
        remote.extract(tmp_path / "expected")
    with cache.remote(f"docker-archive://{tmp_path}/docker.tar:1.0") as remote, remote.pull() as pulled:
        remote.extract(tmp_path / "extracted")
        pulled.extract(tmp_path / "pulled")
    expected = describe(tmp_path / "expected")
    assert len(expected) > 10
    assert describe(tmp_path / "extracted") == expected
    assert describe(tmp_path / "pulled") == expected


@needs_skopeo
def test_an_archive_without_a_name_is_what_a_reference_without_one_means(tmp_path: Path) -> None:
    skopeo("copy", f"oci-archive:{FIXTURES / 'image.oci.tar'}", f"docker-archive:{tmp_path}/docker.tar")
    skopeo("copy", f"oci-archive:{FIXTURES / 'image.oci.tar'}", f"oci:{tmp_path}/layout")
    for place in (f"docker-archive://{tmp_path}/docker.tar", f"oci-layout://{tmp_path}/layout"):
        with opened(place) as remote:
            descriptor, data = remote.manifest("latest")
            assert list(remote.tags()) == []
            layer = oci.decode(data, oci.Manifest, "x").layers[0]
            assert oci.sha256(read(remote, layer)) == layer.digest
        with opened(f"{place}:named") as remote, pytest.raises(NotFound):
            remote.manifest("latest")
        with opened(place) as remote:
            assert remote.manifest(descriptor.digest) == (descriptor, data)


@needs_skopeo
def test_the_only_image_of_an_archive_is_what_a_reference_without_a_name_means(tmp_path: Path) -> None:
    image = f"oci-archive:{FIXTURES / 'image.oci.tar'}"
    skopeo("copy", image, f"docker-archive:{tmp_path}/docker:tool:1.0")
    skopeo("copy", image, f"oci-archive:{tmp_path}/oci:1.0")
    for place in (f"docker-archive://{tmp_path}/docker", f"oci-archive://{tmp_path}/oci"):
        with opened(place) as remote, opened(f"{place}:1.0") as named:
            assert remote.manifest("latest") == named.manifest("1.0")
        with opened(f"{place}:2.0") as remote, pytest.raises(NotFound, match=r"no such name in it; there are 1\.0$"):
            remote.manifest("2.0")


def test_names_that_there_are_are_told(tmp_path: Path) -> None:
    place = f"oci-layout://{tmp_path}/layout"
    with opened(place) as remote, pytest.raises(NotFound, match="no such file or directory"):
        remote.manifest("latest")
    with opened(place) as remote:
        put_image(remote, b"layer", tag="one")
    with opened(place) as remote, pytest.raises(NotFound, match=r"no such name in it; there are one$"):
        remote.manifest("latest")


@needs_umoci
@pytest.mark.root
def test_umoci_unpacks_what_is_put_and_goes_on_from_it(cache: Cache, tmp_path: Path) -> None:
    layout = f"{tmp_path}/layout"
    with cache.remote(f"oci-archive://{FIXTURES / 'image.oci.tar'}") as remote:  # umoci reads gzip only
        cache.push(remote, f"oci-layout://{layout}:one")
    bundle = str(tmp_path / "bundle")
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:one", bundle], check=True, capture_output=True)
    (tmp_path / "bundle/rootfs/more").write_text("theirs")
    subprocess.run(["umoci", "repack", "--image", f"{layout}:two", bundle], check=True, capture_output=True)
    with cache.remote(f"oci-layout://{layout}:two") as remote:
        remote.extract(tmp_path / "out", "more")
    assert (tmp_path / "out/more").read_text() == "theirs"
    with opened(f"oci-layout://{layout}") as remote:
        put_image(remote, b"layer", tag="three")
        assert sorted(remote.tags()) == ["one", "three", "two"]


@needs_skopeo
def test_a_layout_we_write_is_read_by_skopeo(cache: Cache, tmp_path: Path) -> None:
    with cache.import_tree(make_varied_tree(tmp_path / "tree")) as ref:
        pushed = ref.push(f"oci-layout://{tmp_path}/layout:mine")
    inspected = json.loads(skopeo("inspect", f"oci:{tmp_path}/layout:mine"))
    assert inspected["Digest"] == pushed.digest


# Writers at the same time


def test_writers_of_many_names_lose_none(tmp_path: Path) -> None:
    place = f"oci-layout://{tmp_path}/layout"

    def write(number: int) -> None:
        with opened(place) as remote:
            put_image(remote, bytes([number]), tag=f"tag-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with opened(place) as remote:
        assert sorted(remote.tags()) == sorted(f"tag-{number}" for number in range(40))
    assert sorted(os.listdir(tmp_path / "layout")) == ["blobs", "index.json", "oci-layout"]


def test_a_lock_that_another_holds_is_waited_for(tmp_path: Path) -> None:
    with opened(f"oci-layout://{tmp_path}/layout") as remote:
        put_image(remote, b"1", tag="one")
        with open(tmp_path / "layout/index.json.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=put_image, args=(remote, b"2"), kwargs={"tag": "two"})
            thread.start()
            thread.join(0.2)
            assert list(remote.tags()) == ["one"]
            os.unlink(lock.name)
        thread.join()
        assert sorted(remote.tags()) == ["one", "two"]


def test_what_others_wrote_into_the_index_stays(tmp_path: Path) -> None:
    with opened(f"oci-layout://{tmp_path}/layout") as remote:
        put_image(remote, b"1", tag="one")
        path = tmp_path / "layout/index.json"
        index = json.loads(path.read_text())
        index["annotations"] = {"theirs": "yes"}
        index["manifests"][0]["platform"] = {"os": "plan9", "architecture": "vax", "os.features": ["x"]}
        path.write_text(json.dumps(index))
        put_image(remote, b"2", tag="two")
    after = json.loads(path.read_text())
    assert after["annotations"] == {"theirs": "yes"}
    assert after["manifests"][0] == index["manifests"][0]


# Archives


def archive(path: Path, *members: tuple[str, bytes | str]) -> str:
    """Write a tar of files, and of symlinks for those whose content is a string; return its path."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


def docker_files(layer: bytes = b"layer", **changes: object) -> tuple[bytes, bytes]:
    """Return a list of one image and its configuration."""
    config = oci.encode(
        oci.ImageConfig(architecture="amd64", os="linux", rootfs=oci.RootFS(diff_ids=(oci.sha256(layer),)))
    )
    image = {"Config": "config.json", "RepoTags": ["tool:1"], "Layers": ["id/layer.tar"], **changes}
    return json.dumps([image]).encode(), config


def test_of_images_with_one_name_in_several_repositories_none_is_guessed(tmp_path: Path) -> None:
    (mine, config), (theirs, other) = (
        docker_files(RepoTags=["mine:1"]),
        docker_files(b"other", RepoTags=["theirs:1"], Config="other.json", Layers=["other/layer.tar"]),
    )
    listed = json.dumps(json.loads(mine) + json.loads(theirs)).encode()
    files = {"config.json": config, "other.json": other, "id/layer.tar": b"layer", "other/layer.tar": b"other"}
    path = archive(tmp_path / "a.tar", ("manifest.json", listed), *files.items())
    place = f"docker-archive://{path}"
    with opened(f"{place}:1") as remote:
        with pytest.raises(Invalid, match=r"several images have that name; write @sha256:.* for mine:1, @") as error:
            remote.manifest("1")
        digest = error.value.todo.partition("@")[2].partition(" ")[0]
        assert remote.manifest(digest)[0].digest == digest


def test_reading_a_range_of_an_archive_reads_no_more_of_it(tmp_path: Path) -> None:
    layer = random_bytes(4 << 20)
    listed, config = docker_files(layer)
    path = archive(tmp_path / "a.tar", ("id/layer.tar", layer), ("config.json", config), ("./manifest.json", listed))
    with opened(f"docker-archive://{path}:1") as remote:
        found = oci.decode(remote.manifest("1")[1], oci.Manifest, "x").layers[0]
        before = remote.traffic
        assert read(remote, found, 1_000_000, 1000) == layer[1_000_000:1_001_000]
        assert (remote.traffic - before).received == 1000
        assert read(remote, found) == layer


def test_links_in_an_archive_are_followed_within_it(tmp_path: Path) -> None:
    listed, config = docker_files()
    named = (("manifest.json", listed), ("config.json", config), ("other/layer.tar", b"layer"))
    path = archive(tmp_path / "a.tar", ("id/layer.tar", "../other/layer.tar"), *named)
    with opened(f"docker-archive://{path}:1") as remote:
        assert read(remote, blob(b"layer")) == b"layer"


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ([("id/layer.tar", "../../etc/passwd")], UnsafeEntry),
        ([("id/layer.tar", "/etc/passwd")], UnsafeEntry),
        ([("id/layer.tar", "layer.tar")], UnsafeEntry),
        ([("id/layer.tar", "../id/layer.tar")], UnsafeEntry),
        ([("id/layer.tar", "nowhere")], NotFound),
        ([("../id/layer.tar", b"layer")], UnsafeEntry),
        ([("id/layer.tar", b"layer"), ("id/layer.tar", b"other")], Corrupt),
        ([], NotFound),
    ],
)
def test_names_and_links_that_lead_elsewhere_are_refused(
    members: list[tuple[str, bytes | str]], error: type[ShipwayError], tmp_path: Path
) -> None:
    listed, config = docker_files()
    path = archive(tmp_path / "a.tar", ("manifest.json", listed), ("config.json", config), *members)
    with opened(f"docker-archive://{path}:1") as remote, pytest.raises(error):
        remote.manifest("1")


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        (b"", Corrupt),
        (b"{}", Corrupt),
        (docker_files(Layers=[])[0], Corrupt),
        (docker_files(Config="../../etc/passwd")[0], NotFound),
        (docker_files(Config="manifest.json")[0], Corrupt),
        (docker_files(Layers=[7])[0], Corrupt),
        (b"[" * 100_000, Corrupt),
    ],
)
def test_a_list_of_images_that_makes_no_sense_is_corrupt(
    listed: bytes, error: type[ShipwayError], tmp_path: Path
) -> None:
    _, config = docker_files()
    path = archive(tmp_path / "a.tar", ("manifest.json", listed), ("config.json", config), ("id/layer.tar", b"layer"))
    with opened(f"docker-archive://{path}:1") as remote, pytest.raises(error):
        remote.manifest("1")


def test_a_layer_that_is_not_what_its_configuration_says_is_refused_when_it_is_pulled(
    cache: Cache, tmp_path: Path
) -> None:
    listed, config = docker_files(b"another layer")
    path = archive(tmp_path / "a.tar", ("manifest.json", listed), ("config.json", config), ("id/layer.tar", b"layer"))
    with cache.remote(f"docker-archive://{path}:1") as remote, pytest.raises(Corrupt):
        remote.pull()
    assert list(cache.disk_usage()) == []


@pytest.mark.parametrize("scheme", ["oci-archive", "docker-archive"])
def test_what_is_no_archive_is_refused(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "gz").write_bytes(b"\x1f\x8b\x08" + bytes(600))
    (tmp_path / "text").write_bytes(b"no tar at all" * 100)
    archive(tmp_path / "other", ("file", b"x"))
    os.mkfifo(tmp_path / "fifo")
    for name, error in (
        ("gz", Invalid),
        ("text", Corrupt),
        ("fifo", Corrupt),
        ("other", ShipwayError),
        ("no", NotFound),
    ):
        with opened(f"{scheme}://{tmp_path}/{name}") as remote, pytest.raises(error):
            remote.manifest("latest")


def test_an_archive_is_not_written_to(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", ("index.json", oci.encode(oci.Index(schema_version=2, manifests=()))))
    with opened(f"oci-archive://{path}") as remote:
        with pytest.raises(Invalid, match="not written"):
            put(remote, b"x")
        with pytest.raises(Invalid, match="not written"):
            remote.put_manifest(*manifest_of(blob(b"x")), tag="x")
        with pytest.raises(NotFound):
            read(remote, blob(b"x"))


def test_a_blob_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    with opened(f"oci-layout://{tmp_path}/layout") as remote:
        put_image(remote, b"1", tag="one")
        path = tmp_path / "layout/blobs/sha256" / blob(b"1").digest.removeprefix("sha256:")
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(Corrupt):
            read(remote, blob(b"1"))
        remote.put_blob(blob(b"1"), opening(b"1"))
        assert read(remote, blob(b"1")) == b"1"
