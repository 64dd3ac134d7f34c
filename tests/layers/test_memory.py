"""A layer of many small files takes hardly more memory than one of few."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from support.slope import slope

from shipway import oci
from shipway.layers.estargz_table import StargzWriter
from shipway.layers.headers import header
from shipway.layers.table import FileContent, LayerTable, TableWriter
from shipway.trees.entry import Chunk, Entry

FEW, MANY = 8_000, 24_000


def small_file(number: int) -> tuple[Entry, FileContent]:
    digest = oci.sha256(b"%d" % number)
    chunk = Chunk(offset=number * 1000, length=900, start=0, size=1000, digest=digest)
    entry = Entry(path=f"directory-{number // 100}/file-{number}", kind="reg", size=1000)
    return entry, FileContent(digest, 1, (chunk,))


@pytest.mark.parametrize("table", [lambda: TableWriter(3), lambda: StargzWriter(2)])
def test_the_table_of_a_layer_that_is_packed_takes_little_memory_for_each_file(table: Callable[[], LayerTable]) -> None:
    def job(files: int) -> None:
        writer = table()
        for entry, content in map(small_file, range(files)):
            writer.add(entry, entry.path, header(entry, entry.path), content)
        end = writer.finish(1000 * files, 1000 * files)
        digest = hashlib.sha256()
        for pieces in (end.archive, end.blob):
            for piece in pieces:
                digest.update(piece)

    assert slope(job, FEW, MANY) < 100
