"""What is remembered of a file of a layer without a table of contents, while it is looked for, read and summed up."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.images import FileRemote
from support.plain_layers import GZIP, describe_layer
from support.slope import slope

from shipway import oci
from shipway.local.checksums import RemoteDigests
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.transfer.checksums import remote_checksums
from shipway.transfer.remote_tree import RemoteTree

COUNTS = 15_000, 30_000
MOST = 200
"""Bytes for a file; it was above a thousand when each was an object."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def make_layer(remote: FileRemote, files: int) -> Descriptor:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(files):
            info = tarfile.TarInfo(f"directory-{number // 100:03}/file-{number:06}")
            info.size = len(f"content {number}")
            tar.addfile(info, io.BytesIO(f"content {number}".encode()))
    blob = gzip.compress(archive.getvalue(), 1)
    descriptor = describe_layer(blob, GZIP, oci.sha256(archive.getvalue()))
    remote.path(descriptor).write_bytes(blob)
    return descriptor


def extract_all(remote: FileRemote, layer: Descriptor, target: Path, store: Store | None) -> None:
    RemoteTree(remote, [layer], target.parent, store=store).extract(target)
    shutil.rmtree(target)


def sum_up(remote: FileRemote, layer: Descriptor, store: Store) -> None:
    kept = RemoteDigests(store.database)
    assert remote_checksums(RemoteTree(remote, [layer], store=store), kept).checksum().startswith("sha256:")


@pytest.mark.parametrize("what", ["first read", "read by an index", "first checksum"])
def test_a_file_more_takes_little_memory(tmp_path: Path, what: str) -> None:
    remote = FileRemote(tmp_path / "remote")
    layers = {count: make_layer(remote, count) for count in COUNTS}
    store = Store(tmp_path / "store", "native")
    try:
        jobs: dict[str, Callable[[int], object]] = {
            "first read": lambda count: extract_all(remote, layers[count], tmp_path / "out", None),
            "read by an index": lambda count: extract_all(remote, layers[count], tmp_path / "out", store),
            "first checksum": lambda count: sum_up(remote, layers[count], store),
        }
        if what == "read by an index":
            for count in COUNTS:
                jobs[what](count)
                assert store.indexes.load(layers[count]) is not None
                store.kept.free()
                RemoteTree(remote, [layers[count]], store=store).get("")
        assert slope(partial(jobs[what]), *COUNTS) < MOST
    finally:
        store.close()
