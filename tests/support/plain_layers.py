"""One tree as layers that have no table of contents, of each kind."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from shipway import oci
from shipway.layers.compression import Compression
from shipway.oci import Descriptor
from support.images import pack_layer

GZIP, ZSTD, TAR = Compression.GZIP, Compression.ZSTD, Compression.UNCOMPRESSED


def make_compressible_tree(path: Path) -> Path:
    """Make a tree of 24 MB that compresses by half: files of all sizes, names, links, and one with holes."""
    path.mkdir()
    noise = random.Random(7)
    for number in range(400):
        data = noise.randbytes(noise.randrange(20_000)).hex().encode()
        (path / f"file-{number:03}").write_bytes(data)
    (path / "large").write_bytes(noise.randbytes(4_000_000).hex().encode())
    with (path / "sparse").open("wb") as file:
        for number in range(5):
            file.seek(number * 900_000)
            file.write(noise.randbytes(200_000))
    (path / "link").symlink_to("large")
    (path / "other-name").hardlink_to(path / "file-100")
    (path / "empty").touch()
    (path / os.fsdecode(b"not-\xff-UTF-8")).write_bytes(b"a name of bytes")
    return path


def system_gzip(source: Path) -> tuple[Descriptor, bytes]:
    """Return a layer as other programs make it: one gzip member, written by zlib."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(source, ".")
    blob = gzip.compress(archive.getvalue(), 1)
    return describe_layer(blob, Compression.GZIP, oci.sha256(archive.getvalue())), blob


def describe_layer(blob: bytes, compression: Compression, diff_id: str) -> Descriptor:
    """Return the descriptor of a layer's blob."""
    types = {GZIP: oci.LAYER_GZIP, ZSTD: oci.LAYER_ZSTD, TAR: oci.LAYER_TAR}
    annotations = {oci.UNCOMPRESSED: diff_id}
    return Descriptor(media_type=types[compression], digest=oci.sha256(blob), size=len(blob), annotations=annotations)


LAYERS: dict[str, Callable[[Path], tuple[Descriptor, bytes]]] = {
    "gzip of others": system_gzip,
    "gzip": lambda source: pack_layer(None, source, GZIP),
    "zstd": lambda source: pack_layer(None, source, ZSTD),
    "tar": lambda source: pack_layer(None, source, TAR),
}
