"""Images for several platforms under one name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support.caches import write
from support.contents import blob, manifest_of, opening

from shipway import Cache, Invalid, NotFound, oci
from shipway.oci import Descriptor, ManifestDescriptor, Platform
from shipway.references import Reference
from shipway.remotes import Remote, open_remote
from shipway.transfer.images import find_image, read_config

HERE = str(Platform.of_this_machine())
VARIANTS = ["linux/386", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "windows/amd64"]


def put_for(remote: Remote, cache: Cache, text: str, platform: str) -> Descriptor:
    """Put an image of one file that is for a platform, and return its descriptor."""
    with cache.new() as work:
        write(work, platform=text)
        with work.commit() as ref:
            ref.push(f"{remote.name}:single")
    image = find_image(remote, "single")
    wanted = Platform.parse(platform)
    config = oci.encode(
        msgspec.structs.replace(
            read_config(remote, image), architecture=wanted.architecture, os=wanted.os, variant=wanted.variant
        )
    )
    remote.put_blob(blob(config, oci.CONFIG), opening(config))
    descriptor, data = manifest_of(blob(config, oci.CONFIG), *image.manifest.layers)
    remote.put_manifest(descriptor, data)
    return descriptor


def put_index(remote: Remote, *entries: tuple[Descriptor, str], tag: str) -> None:
    """Put an index of images, each with its platform (empty for none)."""
    manifests = tuple(
        ManifestDescriptor(
            media_type=one.media_type,
            digest=one.digest,
            size=one.size,
            platform=_written(platform) if platform else Platform(),
        )
        for one, platform in entries
    )
    data = oci.encode(oci.Index(schema_version=2, media_type=oci.INDEX, manifests=manifests))
    remote.put_manifest(blob(data, oci.INDEX), data, tag=tag)


def _written(platform: str) -> Platform:
    """Return a platform as it stands there, not as it is understood."""
    name, architecture, variant = (*platform.split("/"), "")[:3]
    return Platform(os=name, architecture=architecture, variant=variant)


@pytest.fixture
def place(registry: str, repository: str, cache: Cache) -> str:
    """Return a reference of an index of images for several platforms, of which none is for this machine."""
    remote = open_remote(Reference.parse(f"oci://{registry}/{repository}"))
    images = [(put_for(remote, cache, platform, platform), platform) for platform in VARIANTS]
    put_index(remote, *images, tag="all")
    put_index(remote, *reversed(images), tag="reversed")
    remote.close()
    return f"{remote.name}:all"


def shown(cache: Cache, reference: str, platform: str | None) -> str:
    with cache.remote(reference, platform=platform) as remote, remote.pull() as ref, ref.mounted() as path:
        return (path / "platform").read_text()


def test_the_platform_that_is_asked_for_is_what_comes(cache: Cache, place: str) -> None:
    for platform in VARIANTS:
        assert shown(cache, place, platform) == platform
    assert shown(cache, place, "linux/arm64/v8") == "linux/arm64"
    assert shown(cache, place, "linux/aarch64") == "linux/arm64"
    assert shown(cache, place, "linux/arm") == "linux/arm/v7"
    assert shown(cache, place.replace(":all", ":reversed"), "linux/arm") == "linux/arm/v7"


@pytest.mark.parametrize("platform", ["linux/arm64/v9", "linux/riscv64", "freebsd/386", "linux/arm/v5"])
def test_a_platform_that_is_not_there_is_not_found_and_the_others_are_named(
    cache: Cache, place: str, platform: str
) -> None:
    with pytest.raises(NotFound, match=f"{platform}.*linux/386, linux/arm/v6.*windows/amd64"):
        cache.remote(place, platform=platform)


def test_without_a_platform_it_is_this_machines(cache: Cache, place: str) -> None:
    with pytest.raises(NotFound, match=HERE):
        cache.remote(place)
    remote = open_remote(Reference.parse(place).at())
    mine = put_for(remote, cache, "mine", HERE)
    put_index(remote, (mine, "unknown/unknown"), (mine, HERE), tag="mine")
    put_index(remote, (mine, ""), tag="silent")
    assert shown(cache, f"{remote.name}:mine", None) == "mine"
    assert shown(cache, f"{remote.name}:silent", None) == "mine"
    assert shown(cache, f"{remote.name}:silent", HERE) == "mine"
    with pytest.raises(NotFound, match=f"for {HERE}, not for linux/s390x"):
        cache.remote(f"{remote.name}:silent", platform="linux/s390x")


def test_an_image_alone_is_taken_unless_another_platform_was_asked_for(cache: Cache, place: str) -> None:
    remote = open_remote(Reference.parse(place).at())
    descriptor = put_for(remote, cache, "alone", "linux/arm/v6")
    alone = f"{remote.name}@{descriptor.digest}"
    assert shown(cache, alone, None) == "alone"
    assert shown(cache, alone, "linux/arm/v6") == "alone"
    with pytest.raises(NotFound, match="for linux/arm/v6, not for linux/arm64"):
        cache.remote(alone, platform="linux/arm64")


def test_a_cache_may_be_opened_for_a_platform(cache: Cache, place: str) -> None:
    with Cache.open(cache.root, platform="linux/arm64") as other:
        assert shown(other, place, None) == "linux/arm64"
        assert shown(other, place, "linux/386") == "linux/386"


@pytest.mark.parametrize("platform", ["", "linux", "linux/", "a/b/c/d", "linux/arm 64"])
def test_what_is_no_platform_is_invalid(cache: Cache, platform: str) -> None:
    with pytest.raises(Invalid, match="os/architecture"):
        cache.remote("oci://127.0.0.1:1/x", platform=platform)
    with pytest.raises(Invalid, match="os/architecture"):
        Cache.open(cache.root, platform=platform)


def test_the_program_takes_a_platform(place: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--root", str(tmp_path / "other"), "--platform"]
    out = [
        subprocess.run([*command, one, "cat", place, "/platform"], capture_output=True, check=False)
        for one in ("linux/arm64", "linux/riscv64")
    ]
    assert [done.returncode for done in out] == [0, 3]
    assert out[0].stdout == b"linux/arm64"
