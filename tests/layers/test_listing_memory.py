"""What is kept of a layer's table of contents, and of what is selected in it, is next to nothing for each file."""

from __future__ import annotations

import random
from functools import partial

import pytest
from support.slope import slope

from shipway import oci
from shipway.layers.table import FileContent, TableWriter
from shipway.layers.toc import TocLocation, parse_toc
from shipway.trees.entry import Chunk, Entry
from shipway.trees.merged import Merged, merge
from shipway.trees.select import Selection, select

COUNTS = 10_000, 25_000
_random = random.Random(3)


def table(count: int) -> tuple[bytes, TocLocation]:
    """Return the table of contents of a layer of `count` files, and its place."""
    writer = TableWriter(3)
    for number in range(count):
        if number % 100 == 0:
            writer.add(Entry(path=f"d{number:06}", kind="dir", mode=0o755), f"d{number:06}/", b"")
        path = f"d{number - number % 100:06}/file-{number:06}"
        digest = f"sha256:{_random.randbytes(32).hex()}"
        entry = Entry(path=path, kind="reg", size=1000 + number % 100, mtime_ns=_random.randrange(10**18))
        content = FileContent(digest, 0, (Chunk(500 * number, 500, 0, entry.size, digest),))
        writer.add(entry, path, b"", content)
    offset = 500 * count + 1000
    end = writer.finish(offset, 0)
    place = end.annotations["io.github.containers.zstd-chunked.manifest-position"]
    start, length, size, _ = map(int, place.split(":"))
    data = b"".join(end.blob)[start - offset :][:length]
    return data, TocLocation(offset, len(data), size, oci.sha256(data))


@pytest.fixture(name="tables", scope="module")
def make_tables() -> dict[int, tuple[bytes, TocLocation]]:
    return {count: table(count) for count in COUNTS}


def listed(tables: dict[int, tuple[bytes, TocLocation]], count: int) -> Merged:
    tree = merge([parse_toc(*tables[count])])
    found = tree.get("d000100/file-000150")
    assert found is not None
    assert found.size == 1050
    return tree


def selected(tables: dict[int, tuple[bytes, TocLocation]], count: int) -> tuple[Merged, Selection]:
    tree = listed(tables, count)
    selection = select(tree, ())
    assert len(selection) == count + count // 100
    assert [entry.path for entry in selection.files.pick([150])] == ["d000100/file-000150"]
    return tree, selection


@pytest.mark.slow
def test_a_listed_file_takes_a_few_bytes_besides_the_table(tables: dict[int, tuple[bytes, TocLocation]]) -> None:
    assert slope(partial(listed, tables), *COUNTS) < 20


@pytest.mark.slow
def test_a_selected_file_takes_a_few_bytes_more(tables: dict[int, tuple[bytes, TocLocation]]) -> None:
    assert slope(partial(selected, tables), *COUNTS) < 100
