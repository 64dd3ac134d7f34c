"""A blob is there when all of it is, and never before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipway import DigestMismatch, Invalid, NotFound, SizeMismatch, Truncated
from shipway.local.blobs import Blobs
from shipway.local.database import Database
from shipway.oci import Descriptor, sha256


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    for name in ("blobs/sha256", "ingest"):
        (tmp_path / name).mkdir(parents=True)
    return Blobs(tmp_path, Database(tmp_path / "shipway.db"))


def describe(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor(media_type="text/plain", digest=sha256(data), size=len(data) if size is None else size)


def test_a_blob_comes_back_as_it_was_written(blobs: Blobs) -> None:
    descriptor = blobs.put(b"content", "text/plain")
    assert blobs.get(descriptor.digest) == descriptor
    with blobs.open(descriptor.digest) as file:
        assert file.read() == b"content"


def test_what_is_not_kept_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    with blobs.ingest() as ingest:
        ingest.write(b"half")
        assert blobs.get(ingest.digest) is None
    assert os.listdir(tmp_path / "ingest") == os.listdir(tmp_path / "blobs/sha256") == []


@pytest.mark.parametrize(("size", "error"), [(8, Truncated), (6, SizeMismatch)])
def test_a_blob_of_another_size_is_refused(blobs: Blobs, tmp_path: Path, size: int, error: type[Exception]) -> None:
    with blobs.ingest() as ingest:
        ingest.write(b"content")
        with pytest.raises(error, match="sha256:"):
            blobs.keep(ingest, describe(b"content", size))
    assert os.listdir(tmp_path / "ingest") == os.listdir(tmp_path / "blobs/sha256") == []


def test_another_digest_is_refused(blobs: Blobs) -> None:
    with blobs.ingest() as ingest:
        ingest.write(b"content")
        with pytest.raises(DigestMismatch):
            ingest.check(sha256(b"other"))


@pytest.mark.parametrize("name", ["../../shipway.db", "sha256:xyz", "sha512:" + "0" * 64, ""])
def test_a_name_that_is_no_digest_never_becomes_a_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(Invalid):
        blobs.path(name)


def test_a_blob_that_is_not_here_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        blobs.open(sha256(b"x"))


def test_a_blob_is_found_by_the_layer_it_holds(blobs: Blobs) -> None:
    diff_id = sha256(b"tar")
    with blobs.ingest() as ingest:
        ingest.write(b"content")
        blobs.keep(ingest, describe(b"content"), diff_id)
    assert blobs.of_layer(diff_id) == [describe(b"content")]
    blobs.forget(sha256(b"content"))
    assert blobs.of_layer(diff_id) == []
