"""Fixtures of this room's tests: a real registry, what is kept of remote layers, and trees in several versions."""

from __future__ import annotations

import functools
import io
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.images import FileRemote, PutVersions, copy_tree, pack_layer
from support.registry import reference, registry, repository
from support.trees import make_varied_tree

from shipway.layers.compression import Compression
from shipway.oci import Descriptor
from shipway.remotes import Remote

__all__ = ["reference", "registry", "repository"]


@pytest.fixture
def remote(tmp_path: Path) -> FileRemote:
    """A remote that is a directory of blobs."""
    return FileRemote(tmp_path / "remote")


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of a varied tree, for tests to read: changed, removed, replaced and relinked things."""
    base = tmp_path_factory.mktemp("versions")
    first = make_varied_tree(base / "version-1")
    (first / "noise").write_bytes(random.Random(1).randbytes(9 << 20))
    (first / "usr/bin").mkdir(parents=True)
    (first / "usr/bin/sh").write_bytes(b"a shell")
    (first / "sbin").symlink_to("usr/bin")

    second = copy_tree(first, base / "version-2")
    (second / "bin/tool").write_bytes(b"a better tool")
    (second / "empty").unlink()
    shutil.rmtree(second / "private")
    (second / "private").write_bytes(b"no directory any more")
    (second / "sticky/new").write_bytes(b"new")
    (second / "noise-too").write_bytes((second / "noise").read_bytes())

    third = copy_tree(second, base / "version-3")
    shutil.rmtree(third / "emptydir")
    (third / "emptydir").mkdir()
    (third / "emptydir/filled").write_bytes(b"no longer empty")
    (third / "usr/bin/tiny").write_bytes(b"tiny")
    (third / "setuid").chmod(0o600)
    return [first, second, third]


@pytest.fixture(scope="session")
def put_versions(versions: list[Path]) -> PutVersions:
    """Return a function that puts layers of `versions` into a remote; each is packed once."""
    pack_once = functools.cache(pack_layer)

    def put(remote: Remote, compressions: Sequence[Compression]) -> list[Descriptor]:
        descriptors = []
        for lower, upper, compression in zip([None, *versions], versions, compressions, strict=False):
            descriptor, blob = pack_once(lower, upper, compression)
            remote.put_blob(descriptor, functools.partial(io.BytesIO, blob))
            descriptors.append(descriptor)
        return descriptors

    return put
