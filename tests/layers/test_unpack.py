"""Unpacking checks everything before it returns, and says what was wrong."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from support.layers import Collected, Layer, cut, describe_blob, packed

from shipway import oci
from shipway.errors import (
    Corrupt,
    DigestMismatch,
    NoSpace,
    ShipwayError,
    SizeMismatch,
    TooLarge,
    Truncated,
    Unavailable,
    UnknownMediaType,
)
from shipway.layers.compression import Compression
from shipway.layers.headers import END_OF_ARCHIVE, header
from shipway.layers.unpack import unpack
from shipway.limits import Limits
from shipway.progress import Progress
from shipway.trees.entry import Content, Entry

EVERY = pytest.mark.parametrize("compression", list(Compression))


@pytest.fixture(name="tree", scope="module")
def make_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for number in range(40):
        (tree / f"file-{number:02}").write_bytes(os.urandom(50) * (number * 10))
    (tree / "large").write_bytes(os.urandom(3 << 20))
    return tree


def unpacked(layer: Layer, blob: bytes | None = None, diff_id: str | None = None) -> Collected:
    sink = Collected()
    blob = layer.blob if blob is None else blob
    unpack(cut(blob), layer.packed.descriptor, diff_id or layer.packed.diff_id, sink)
    return sink


@EVERY
def test_a_blob_cut_short_is_truncated(tree: Path, compression: Compression) -> None:
    layer = packed(tree, compression)
    size = len(layer.blob)
    for end in (0, 1, 100, 511, size // 3, size // 2, size - 64, size - 1):
        with pytest.raises(Truncated, match=layer.packed.descriptor.digest):
            unpacked(layer, layer.blob[:end])


@EVERY
def test_a_flipped_byte_is_a_digest_mismatch_wherever_it_is(tree: Path, compression: Compression) -> None:
    layer = packed(tree, compression)
    for at in (0, 1, 5, 300, len(layer.blob) // 2, len(layer.blob) - 100, len(layer.blob) - 1):
        blob = bytearray(layer.blob)
        blob[at] ^= 0x10
        with pytest.raises(DigestMismatch, match=layer.packed.descriptor.digest):
            unpacked(layer, bytes(blob))


@EVERY
def test_more_than_was_promised_is_a_size_mismatch(tree: Path, compression: Compression) -> None:
    layer = packed(tree, compression)
    with pytest.raises(SizeMismatch, match="promised"):
        unpacked(layer, layer.blob + b"x")


def test_an_endless_blob_is_left_at_once(tree: Path) -> None:
    layer = packed(tree, Compression.UNCOMPRESSED)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield layer.blob
        while True:
            taken += 1
            yield bytes(1 << 20)

    with pytest.raises(SizeMismatch):
        unpack(endless(), layer.packed.descriptor, None, Collected())
    assert taken <= 2


def test_a_wrong_diff_id_is_a_digest_mismatch(tree: Path) -> None:
    layer = packed(tree)
    with pytest.raises(DigestMismatch, match="unpacked"):
        unpacked(layer, diff_id="sha256:" + "0" * 64)


def test_without_a_diff_id_the_right_one_is_returned(tree: Path) -> None:
    layer = packed(tree)
    result = unpack(cut(layer.blob), layer.packed.descriptor, None, Collected())
    assert result.diff_id == layer.packed.diff_id


@EVERY
def test_malformed_data_under_its_right_digest_is_corrupt(compression: Compression) -> None:
    blob = b"this is nothing that anybody packed" * 100
    with pytest.raises(Corrupt) as caught:
        unpack(cut(blob), describe_blob(blob, compression), None, Collected())
    assert not isinstance(caught.value, DigestMismatch)


def test_an_unknown_media_type_is_named(tree: Path) -> None:
    layer = packed(tree)
    descriptor = msgspec.structs.replace(layer.packed.descriptor, media_type="text/plain")
    with pytest.raises(UnknownMediaType, match="text/plain"):
        unpack(cut(layer.blob), descriptor, None, Collected())


@EVERY
def test_a_decompression_bomb_stops_at_the_limit(tmp_path: Path, compression: Compression) -> None:
    (tmp_path / "zeros").write_bytes(b"")
    os.truncate(tmp_path / "zeros", 64 << 20)
    layer = packed(tmp_path, compression)
    with pytest.raises(TooLarge, match="more than the 1000000 bytes"):
        unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), limits=Limits(size=1_000_000))
    unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), limits=Limits(size=layer.packed.diff_size))


@EVERY
def test_the_blob_is_kept_byte_for_byte(tree: Path, compression: Compression) -> None:
    layer = packed(tree, compression)
    keep = io.BytesIO()
    unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), keep=keep)
    assert keep.getvalue() == layer.blob


def test_a_full_disk_while_keeping_is_no_space(tree: Path) -> None:
    layer = packed(tree)
    with open("/dev/full", "wb", buffering=0) as keep, pytest.raises(NoSpace):
        unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), keep=keep)


@EVERY
@pytest.mark.parametrize("size", [1, 511, 4096, 1 << 24])
def test_the_size_of_pieces_does_not_matter(tmp_path: Path, compression: Compression, size: int) -> None:
    (tmp_path / "file").write_bytes(b"content" * 500)
    (tmp_path / "other").write_bytes(b"")
    layer = packed(tmp_path, compression)
    sink = Collected()
    pieces = (memoryview(piece) for piece in cut(layer.blob, size))
    unpack(pieces, layer.packed.descriptor, layer.packed.diff_id, sink)
    assert sink.contents == {"file": b"content" * 500, "other": b""}


@dataclass
class Failing(Collected):
    error: BaseException

    def __post_init__(self) -> None:
        super().__init__()

    def add(self, entry: Entry, content: Content = b"") -> None:
        super().add(entry, content)
        if entry.path == "file-20":
            raise self.error


@pytest.mark.parametrize("error", [NoSpace("full"), KeyboardInterrupt()], ids=["NoSpace", "KeyboardInterrupt"])
def test_errors_of_the_sink_come_out_and_no_thread_stays(tree: Path, error: BaseException) -> None:
    layer = packed(tree)
    before = threading.active_count()
    with pytest.raises(type(error)) as caught:
        unpack(cut(layer.blob), layer.packed.descriptor, None, Failing(error))
    assert caught.value is error
    assert threading.active_count() == before


def test_errors_of_the_source_come_out_as_they_are(tree: Path) -> None:
    layer = packed(tree)

    def breaking() -> Iterator[bytes]:
        yield layer.blob[:5000]
        raise Unavailable("the network is gone")

    with pytest.raises(Unavailable, match="network"):
        unpack(breaking(), layer.packed.descriptor, None, Collected())


def test_content_that_the_sink_leaves_unread_is_passed_over(tree: Path) -> None:
    class Lazy(Collected):
        def _read(self, _path: str, content: Content, /) -> bytes:
            return next(iter(content)) if isinstance(content, Iterator) else b""  # type: ignore[return-value]  # unread

    layer = packed(tree)
    sink = Lazy()
    unpack(cut(layer.blob), layer.packed.descriptor, layer.packed.diff_id, sink)
    assert [entry.path for entry in sink.entries] == [entry.path for entry in layer.entries]


def test_progress_counts_the_blobs_bytes_and_may_stop_the_work(tree: Path) -> None:
    layer = packed(tree)
    seen: list[Progress] = []
    unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), progress=seen.append)
    assert seen[-1].done <= seen[-1].total == len(layer.blob)  # type: ignore[operator]  # the total is known
    assert [one.done for one in seen] == sorted(one.done for one in seen)

    def stop(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(cut(layer.blob), layer.packed.descriptor, None, Collected(), progress=stop)


def test_bytes_after_the_archive_count_for_the_digests() -> None:
    archive = header(Entry(path="a", kind="reg"), "a") + END_OF_ARCHIVE + b"trailing" * 1000
    result = unpack(cut(archive), describe_blob(archive, Compression.UNCOMPRESSED), oci.sha256(archive), Collected())
    assert (result.entries, result.diff_size) == (1, len(archive))


def test_an_error_of_the_archive_names_blob_and_entry() -> None:
    archive = header(Entry(path="x", kind="reg", size=5000), "path/of/it") + b"short"
    with pytest.raises(ShipwayError, match=r"^the layer: 'path/of/it': "):
        unpack(cut(archive), describe_blob(archive, Compression.UNCOMPRESSED), None, Collected(), where="the layer")
