"""Fixtures of this room's tests: an image of ours in each kind of registry, and other people's programs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.images import copy_tree
from support.programs import Containerd, Podman, new_podman, running_containerd
from support.registry import registry
from support.trees import make_varied_tree

from shipway import Cache
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

__all__ = ["registry"]


@contextmanager
def short_directory() -> Iterator[Path]:
    """Yield a new directory with a short path: a socket's may have 107 bytes, podman's run directory 50."""
    with tempfile.TemporaryDirectory(prefix="ship", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of a varied tree; the second lacks, replaces and adds things."""
    base = tmp_path_factory.mktemp("trees")
    first = make_varied_tree(base / "first")
    (first / "gone").mkdir()
    for name in "abc":
        (first / "gone" / name).write_text(name)
    second = copy_tree(first, base / "second")
    (second / "bin/tool").write_bytes(b"a better tool")
    (second / "empty").unlink()
    shutil.rmtree(second / "private")
    (second / "private").write_bytes(b"no directory any more")
    shutil.rmtree(second / "gone")
    (second / "gone").mkdir()
    (second / "gone/d").write_text("d")
    (second / "usr").mkdir()
    (second / "usr/new").write_bytes(bytes(range(256)) * 40)
    return [first, second]


@pytest.fixture(scope="session")
def tree(trees: list[Path]) -> Path:
    """The tree that the image shows."""
    return trees[-1]


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory, trees: list[Path]) -> Iterator[tuple[Cache, str]]:
    """Yield a store that is served, and its `host:port`; the image is there under `team/image:v1`, of two layers."""
    with Cache.open(tmp_path_factory.mktemp("worker") / "store") as cache, serving(StoreBackend(cache)) as url:
        host = url.removeprefix("http://")
        with cache.import_tree(trees[0]) as below, cache.import_tree(trees[1], below) as ref:
            ref.push(f"oci://{host}/team/image:v1")
            yield cache, host


@pytest.fixture
def own_host(worker: tuple[Cache, str]) -> str:
    """Return the `host:port` of our own server."""
    return worker[1]


@pytest.fixture(params=["serve", "docker-registry"])
def host(request: pytest.FixtureRequest, worker: tuple[Cache, str]) -> str:
    """Return the `host:port` of a registry, ours or Debian's, that has the image as `team/image:v1`."""
    cache, own = worker
    if request.param == "serve":
        return own
    other: str = request.getfixturevalue("registry")
    with cache.remote(f"oci://{own}/team/image:v1") as ref:
        cache.push(ref, f"oci://{other}/team/image:v1")
    return other


@pytest.fixture
def podman() -> Iterator[Podman]:
    with short_directory() as root:
        yield new_podman(root)


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    with short_directory() as root, running_containerd(root) as containerd:
        yield containerd
