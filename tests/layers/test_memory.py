"""A layer of many small files takes hardly more memory than one of few."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from support.slope import slope

from shipway import oci
from shipway.layers.batches import Pipeline
from shipway.layers.compression import Compression
from shipway.layers.estargz_table import StargzWriter
from shipway.layers.headers import END_OF_ARCHIVE, header
from shipway.layers.pack import Packer
from shipway.layers.table import FileContent, LayerTable, TableWriter
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.entry import Chunk, Content, Entry

pytestmark = pytest.mark.slow
FEW, MANY = 8_000, 24_000
"""More small files than are on their way at a time."""


def small_file(number: int) -> tuple[Entry, FileContent]:
    digest = oci.sha256(b"%d" % number)
    chunk = Chunk(offset=number * 1000, length=900, start=0, size=1000, digest=digest)
    entry = Entry(path=f"directory-{number // 100}/file-{number}", kind="reg", size=1000)
    return entry, FileContent(digest, 1, (chunk,))


@pytest.mark.parametrize("table", [TableWriter, StargzWriter])
def test_the_table_of_a_layer_that_is_packed_takes_little_memory_for_each_file(
    table: Callable[[int], LayerTable],
) -> None:
    def job(files: int) -> None:
        writer = table(2)
        for entry, content in map(small_file, range(files)):
            writer.add(entry, entry.path, header(entry, entry.path), content)
        end = writer.finish(1000 * files, 1000 * files)
        digest = hashlib.sha256()
        for pieces in (end.archive, end.blob):
            for piece in pieces:
                digest.update(piece)

    assert slope(job, FEW, MANY) < 100


def packed(content: Path, files: int, compression: Compression) -> tuple[bytes, Descriptor, str]:
    """Return a layer of small files that are all alike: its blob, and what it is promised to be."""
    blob = io.BytesIO()
    with Pipeline(blob, compression, None, 1, "") as pipeline:
        packer = Packer(lambda _path: os.open(content, os.O_RDONLY), pipeline, "", None, None)
        if compression is Compression.ESTARGZ:
            packer.add_landmark()
        for entry, _ in map(small_file, range(files)):
            packer.add(entry)
        packer.finish(END_OF_ARCHIVE if compression is not Compression.ESTARGZ else b"")
        descriptor, diff_id, _ = pipeline.finish()
    return blob.getvalue(), descriptor, diff_id


class Nowhere:
    """A sink of entries that keeps nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, entry: Entry, content: Content = b"") -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("compression", [Compression.ZSTD_CHUNKED, Compression.ESTARGZ])
def test_a_layer_is_compared_with_its_table_on_little_memory_for_each_file(
    tmp_path: Path, compression: Compression
) -> None:
    (tmp_path / "content").write_bytes(bytes(range(250)) * 4)
    layers = {files: packed(tmp_path / "content", files, compression) for files in (FEW, MANY)}

    def job(files: int) -> None:
        blob, descriptor, diff_id = layers[files]
        unpack(iter([blob]), descriptor, diff_id, Nowhere())

    assert slope(job, FEW, MANY) < 100
