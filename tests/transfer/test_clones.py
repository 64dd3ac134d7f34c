"""Where the file system shares blocks, what a pull takes from elsewhere in the store takes no room again."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.caches import DRIVERS
from support.images import FileRemote, put_layer
from support.stargz import written
from support.trees import describe

from shipway import Cache, Way, oci
from shipway.oci import Descriptor
from shipway.transfer.pull import PulledTree, pull

SIZE = 20 << 20


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on a file system that shares blocks."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed (Debian package btrfs-progs)")
    image, directory = tmp_path / "image", tmp_path / "sharing"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, directory], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"btrfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-R", directory], check=True)


def used(directory: Path) -> int:
    subprocess.run(["sync", "-f", directory], check=True)
    disk = os.statvfs(directory)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def put_ours(remote: FileRemote, tree: Path) -> Descriptor:
    return put_layer(remote, None, tree)


def put_stargz_of_another(remote: FileRemote, tree: Path) -> Descriptor:
    """Put a layer of which the last chunk of each file has to be fetched, since headers follow it."""
    layer, blob = written(tree).finish()
    remote.put_blob(layer, lambda: io.BytesIO(blob))
    return layer


@pytest.mark.root
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("put", [put_ours, put_stargz_of_another])
def test_whole_files_are_cloned(
    sharing: Path, tmp_path: Path, driver: str, put: Callable[[FileRemote, Path], Descriptor]
) -> None:
    remote = FileRemote(tmp_path / "remote")
    tree = tmp_path / "tree"
    tree.mkdir()
    noise = random.Random(5)
    (tree / "large").write_bytes(noise.randbytes(SIZE))
    (tree / "beginning").write_bytes((tree / "large").read_bytes()[: 1 << 20])
    for number in range(20):
        (tree / f"file{number}").write_bytes(noise.randbytes(200_000))

    def pulled() -> PulledTree:
        layer = put(remote, tree)
        return pull(cache.store, "test", [layer], [layer.annotations[oci.UNCOMPRESSED]], remote=remote)

    with Cache.open(sharing / "store", driver=driver) as cache:
        pulled()
        before = used(sharing)
        (tree / "changed").write_bytes(os.urandom(10_000))
        done = pulled()
        assert done.layers[0].way is Way.ASSEMBLED
        assert used(sharing) - before < SIZE // 4
        with cache.get(done.record.id) as ref, ref.mounted() as path:
            assert describe(path) == describe(tree)
