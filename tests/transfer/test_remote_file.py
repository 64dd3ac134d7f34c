"""A file of a remote layer, opened: the same bytes as the local one, and no more fetched than is read."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import FileRemote, PutVersions, pack_layer, put_layer

from shipway import oci
from shipway.errors import DigestMismatch, Invalid, NotFound, Truncated
from shipway.layers.compression import Compression
from shipway.oci import Descriptor
from shipway.transfer.ranges import REQUEST_COST
from shipway.transfer.remote_file import BUFFER, CACHED
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.entry import Chunk
from shipway.trees.looking import open_file

SIZE = 24 << 20
CONTENT = random.Random(6).randbytes(SIZE)
PLAIN = [Compression.ZSTD, Compression.GZIP, Compression.UNCOMPRESSED]
SPARSE = bytes(3 << 20) + b"one" + bytes(2 << 20) + b"two" + bytes(1 << 20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source")
    (path / "large").write_bytes(CONTENT)
    (path / "small").write_bytes(b"small")
    (path / "empty").write_bytes(b"")
    (path / "again").symlink_to("/large")
    with open(path / "sparse", "wb") as file:
        for offset, data in ((3 << 20, b"one"), ((5 << 20) + 3, b"two")):
            file.seek(offset)
            file.write(data)
        file.truncate(len(SPARSE))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileRemote:
    return FileRemote(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def layer(files: FileRemote, source: Path) -> Descriptor:
    return put_layer(files, None, source)


@pytest.fixture
def tree(files: FileRemote, layer: Descriptor) -> RemoteTree:
    """The tree, listed already, so that what moves from now on is content."""
    tree = RemoteTree(files, [layer])
    tree.names("")
    return tree


def chunks_of(tree: RemoteTree, path: str) -> tuple[Chunk, ...]:
    entry = tree.get(path)
    assert entry is not None
    return entry.chunks


@pytest.mark.parametrize("compression", [Compression.ZSTD_CHUNKED, *PLAIN])
def test_every_file_reads_as_the_local_one(files: FileRemote, source: Path, compression: Compression) -> None:
    tree = RemoteTree(files, [put_layer(files, None, source, compression)])
    for name in os.listdir(source):
        expected = (source / name).read_bytes() if name != "again" else CONTENT
        with open_file(tree, name) as file:
            assert file.read() == expected
            assert file.read(1) == b""
            assert file.tell() == len(expected)


@settings(max_examples=60)
@given(st.data())
def test_it_seeks_and_reads_as_any_file_does(files: FileRemote, layer: Descriptor, data: st.DataObject) -> None:
    tree = RemoteTree(files, [layer])
    name, content = data.draw(st.sampled_from([("large", CONTENT), ("sparse", SPARSE), ("empty", b"")]))
    places = st.integers(0, len(content) + 10)
    with open_file(tree, name) as file, io.BytesIO(content) as model:
        for _ in range(data.draw(st.integers(1, 8))):
            whence = data.draw(st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]))
            offset = data.draw(places) - (0 if whence == io.SEEK_SET else model.tell() if whence == 1 else len(content))
            assert file.seek(offset, whence) == model.seek(offset, whence)
            count = data.draw(st.sampled_from([1, 100, BUFFER, 3 << 20]))
            assert file.read(count) == model.read(count)
            assert file.tell() == model.tell()


def test_opening_fetches_nothing_and_a_read_only_the_chunk_it_touches(files: FileRemote, tree: RemoteTree) -> None:
    before = files.traffic
    with open_file(tree, "large") as file:
        assert files.traffic == before
        for chunk in (chunks_of(tree, "large")[number] for number in (20, 3, 11)):
            before = files.traffic
            file.seek(chunk.start + 10)
            assert file.read(10) == CONTENT[chunk.start + 10 : chunk.start + 20]
            moved = files.traffic - before
            assert (moved.requests, moved.received) == (1, chunk.length)


def test_what_was_read_a_moment_ago_is_not_fetched_again(files: FileRemote, tree: RemoteTree) -> None:
    with open_file(tree, "large") as file:
        for place in (0, 10 << 20, 20 << 20):
            file.seek(place)
            file.read(1)
        before = files.traffic
        for place in (20 << 20, 5, (10 << 20) + 7):
            file.seek(place)
            assert file.read(5) == CONTENT[place : place + 5]
        assert files.traffic == before


def test_reading_in_order_takes_few_requests_and_no_byte_twice(
    files: FileRemote, tree: RemoteTree, layer: Descriptor
) -> None:
    assert SIZE > CACHED
    before = files.traffic
    with open_file(tree, "large") as file:
        for start in range(0, SIZE, 50_000):
            assert file.read(50_000) == CONTENT[start : start + 50_000]
    moved = files.traffic - before
    assert moved.requests <= 8
    assert moved.received == sum(chunk.length for chunk in chunks_of(tree, "large"))
    assert moved.received < layer.size


def test_a_large_read_anywhere_is_one_request(files: FileRemote, tree: RemoteTree) -> None:
    before = files.traffic
    with open_file(tree, "large") as file:
        file.seek(7 << 20)
        assert file.read(2 << 20) == CONTENT[7 << 20 : 9 << 20]
    assert (files.traffic - before).requests <= 2
    assert (files.traffic - before).received < (2 << 20) + 3 * (1 << 20)


def test_holes_move_nothing(files: FileRemote, tree: RemoteTree) -> None:
    before = files.traffic
    with open_file(tree, "sparse") as file:
        assert file.read() == SPARSE
    assert (files.traffic - before).received < REQUEST_COST
    with open_file(tree, "sparse") as file:
        before = files.traffic
        assert file.read(1 << 20) == bytes(1 << 20)
        assert files.traffic == before


def test_a_damaged_chunk_is_refused_and_others_are_read(files: FileRemote, source: Path, tmp_path: Path) -> None:
    files = FileRemote(tmp_path / "damaged")
    layer = put_layer(files, None, source)
    tree = RemoteTree(files, [layer])
    chunk = chunks_of(tree, "large")[4]
    with files.path(layer).open("r+b") as damaged:
        damaged.seek(chunk.offset + chunk.length // 2)
        damaged.write(b"damage")
    with open_file(tree, "large") as file:
        file.seek(chunk.start)
        with pytest.raises(DigestMismatch, match="large"):
            file.read(1)
        file.seek(chunk.start + chunk.size)
        assert file.read(3) == CONTENT[chunk.start + chunk.size :][:3]
        file.seek(0)
        with pytest.raises(DigestMismatch, match="large"):
            file.read()


def test_a_blob_that_became_shorter_is_truncated_and_read_again_when_it_is_back(source: Path, tmp_path: Path) -> None:
    files = FileRemote(tmp_path / "short")
    layer = put_layer(files, None, source)
    tree = RemoteTree(files, [layer])
    tree.names("")
    whole = files.path(layer).read_bytes()
    with open_file(tree, "large") as file:
        assert file.read(10 << 20) == CONTENT[: 10 << 20]  # far enough to be reading up to the end
        os.truncate(files.path(layer), len(whole) // 4)
        with pytest.raises(Truncated):
            file.read()
        files.path(layer).write_bytes(whole)
        file.seek(10 << 20)
        assert file.read() == CONTENT[10 << 20 :]


def test_a_file_of_a_layer_that_can_have_no_index_is_fetched_once_checked_and_gone_when_closed(
    source: Path, tmp_path: Path
) -> None:
    files = FileRemote(tmp_path / "plain")
    _, archive = pack_layer(None, source, Compression.UNCOMPRESSED)
    blob = zstandard.compress(archive)  # one frame
    layer = Descriptor(media_type=oci.LAYER_ZSTD, digest=oci.sha256(blob), size=len(blob))
    files.put_blob(layer, lambda: io.BytesIO(blob))
    staging = tmp_path / "staging"
    staging.mkdir()
    tree = RemoteTree(files, [layer], staging)
    tree.names("")
    with open_file(tree, "large") as file:
        before = files.traffic
        file.seek(SIZE - 5)
        assert file.read() == CONTENT[-5:]
        with pytest.raises(OSError, match="write"):
            file.write(b"x")
        assert files.traffic == before
    assert os.listdir(staging) == []
    with files.path(layer).open("r+b") as damaged:
        damaged.seek(layer.size // 2)
        damaged.write(b"damage")
    with pytest.raises(DigestMismatch):
        open_file(tree, "large")


@pytest.mark.parametrize("compression", PLAIN)
def test_a_file_of_a_plain_layer_is_read_by_chunks_once_the_layer_was_listed(
    source: Path, tmp_path: Path, compression: Compression
) -> None:
    files = FileRemote(tmp_path / "plain")
    layer = put_layer(files, None, source, compression)
    tree = RemoteTree(files, [layer])
    tree.names("")
    before = files.traffic.received
    with open_file(tree, "large") as file:
        file.seek(SIZE - 5)
        assert file.read() == CONTENT[-5:]
    assert files.traffic.received - before < layer.size // 4


def test_what_is_no_file_is_refused(files: FileRemote, put_versions: PutVersions) -> None:
    tree = RemoteTree(files, put_versions(files, [Compression.ZSTD_CHUNKED] * 3))
    for path, error, what in [
        ("bin", Invalid, "directory"),
        ("/", Invalid, "directory"),
        ("fifo", Invalid, "regular"),
        ("no/such", NotFound, "no/such"),
        ("bin/dangling", NotFound, "nowhere"),
        ("empty", NotFound, "empty"),
    ]:
        with pytest.raises(error, match=what):
            open_file(tree, path)


def test_closing_ends_it(tree: RemoteTree) -> None:
    file = open_file(tree, "large")
    file.read(12 << 20)
    file.close()
    file.close()
    for use in (lambda: file.read(1), lambda: file.seek(0), file.tell):
        with pytest.raises(ValueError, match="closed"):
            use()
