"""Media types, and decompressing streams made of several parts."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from support.layers import cut

from shipway import oci
from shipway.errors import Corrupt, Truncated, UnknownMediaType
from shipway.layers.compression import Compression, compression_of, decompressed, media_type

DATA = bytes(range(256)) * 5000


def read(blob: bytes, compression: Compression, piece: int = 777) -> bytes:
    source = decompressed(cut(blob, piece), compression, "the blob")
    buffer, whole = bytearray(100_000), b""
    while size := source.readinto(memoryview(buffer)):
        whole += buffer[:size]
    return whole


@pytest.mark.parametrize("compression", list(Compression))
def test_what_is_written_is_read_as_plain_tar_of_that_compression(compression: Compression) -> None:
    seen_as = {Compression.ZSTD_CHUNKED: Compression.ZSTD, Compression.ESTARGZ: Compression.GZIP}
    plain = seen_as.get(compression, compression)
    assert compression_of(media_type(compression)) is plain


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (oci.LAYER_ZSTD, Compression.ZSTD),
        (oci.DOCKER_LAYER_GZIP, Compression.GZIP),
        (oci.DOCKER_LAYER_TAR, Compression.UNCOMPRESSED),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Compression.ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", Compression.UNCOMPRESSED),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression.GZIP),
    ],
)
def test_types_of_other_programs_are_known(media_type: str, compression: Compression) -> None:
    assert compression_of(media_type) is compression


def test_an_unknown_media_type_is_named() -> None:
    with pytest.raises(UnknownMediaType, match=r"application/x-7z"):
        compression_of("application/x-7z")


def test_gzip_members_one_after_the_other_are_one_stream() -> None:
    blob = gzip.compress(DATA[:1000]) + gzip.compress(b"") + gzip.compress(DATA[1000:])
    assert read(blob, Compression.GZIP) == DATA


def test_zstd_frames_and_skippable_ones_are_one_stream() -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    blob = zstandard.compress(DATA[:1000]) + skippable + zstandard.compress(DATA[1000:]) + skippable
    for piece in (1, 10_000_000):
        assert read(blob, Compression.ZSTD, piece) == DATA


def test_gzip_cut_short_is_truncated() -> None:
    with pytest.raises(Truncated, match="the blob"):
        read(gzip.compress(DATA)[:-3], Compression.GZIP)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_other_data_is_corrupt(compression: Compression) -> None:
    with pytest.raises(Corrupt, match="the blob"):
        read(b"something else entirely", compression)


def test_a_wrong_gzip_checksum_is_corrupt() -> None:
    blob = bytearray(gzip.compress(DATA))
    blob[-6] ^= 1
    with pytest.raises(Corrupt):
        read(bytes(blob), Compression.GZIP)


def test_an_enormous_zstd_window_is_refused() -> None:
    # A frame header that asks for a window of 3.75 TiB.
    with pytest.raises(Corrupt):
        read(b"\x28\xb5\x2f\xfd\x00\xff" + bytes(100), Compression.ZSTD)
