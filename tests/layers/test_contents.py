"""What every table of contents has to do, whatever its format: say what is in a layer and where, and not be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.layers import Collected, cut, packed
from support.trees import make_varied_tree

from shipway import oci
from shipway.errors import Corrupt, ShipwayError
from shipway.layers.compression import Compression
from shipway.layers.contents import ChunkReader, Contents, read_chunk
from shipway.layers.formats import contents_of
from shipway.layers.index import Index
from shipway.layers.read import LayerReader
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Entry


@dataclass(frozen=True)
class Subject:
    """A layer with a table of contents, and what is in it."""

    blob: bytes
    descriptor: Descriptor
    contents: Contents
    content: Collected

    def read(self, offset: int, length: int) -> bytes:
        return self.blob[offset : offset + length]

    @property
    def table(self) -> Buffer:
        return self.contents.fetch(self.read, "the blob")

    def entries(self) -> list[Entry]:
        return self.parse(self.table)

    def parse(self, table: Buffer) -> list[Entry]:
        return list(self.contents.parse(table, "the blob"))


def promised(tree: Path, compression: Compression) -> Subject:
    """Pack a tree with a table of contents."""
    layer = packed(tree, compression)
    contents = contents_of(layer.packed.descriptor)
    assert contents is not None
    content = Collected()
    unpack(cut(layer.blob), layer.packed.descriptor, layer.packed.diff_id, content)
    return Subject(layer.blob, layer.packed.descriptor, contents, content)


def indexed(tree: Path, compression: Compression) -> Subject:
    """Pack a tree without a table, and make an index by reading it once."""
    layer = packed(tree, compression)
    reader = LayerReader(cut(layer.blob), layer.packed.descriptor, "the blob", index=True)
    assert reader.index is not None
    content = Collected()
    for entry, data in reader:
        content.add(entry, data)
        digest = oci.sha256(content.contents[entry.path]) if entry.size else ""
        reader.index.add(entry, digest, reader.stored(entry))
    index = reader.index.finish()
    assert index is not None
    contents = Index(index, layer.packed.descriptor)
    contents.parse(index.read(0, len(index)), "the blob")
    return Subject(layer.blob, layer.packed.descriptor, contents, content)


FORMATS: dict[str, Callable[[Path], Subject]] = {
    "zstd:chunked": lambda tree: promised(tree, Compression.ZSTD_CHUNKED),
    "estargz": lambda tree: promised(tree, Compression.ESTARGZ),
    "index of gzip": lambda tree: indexed(tree, Compression.GZIP),
    "index of zstd": lambda tree: indexed(tree, Compression.ZSTD),
    "index of tar": lambda tree: indexed(tree, Compression.UNCOMPRESSED),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_varied_tree(tmp_path_factory.mktemp("contents") / "tree")
    (path / "random").write_bytes(os.urandom(5_000_000))
    with (path / "riddled").open("wb") as file:
        for number in range(8):
            file.seek(number * 700_000)
            file.write(os.urandom(300_000))
    for number in range(300):
        (path / f"small-{number:03}").write_bytes(f"{number}".encode() * number)
    os.truncate(path / "empty", 3_000_001)
    os.setxattr(path / "random", os.fsdecode(b"user.\xff=100%"), b"\0\xff")
    return path


@pytest.fixture(scope="module", params=FORMATS)
def subject(request: pytest.FixtureRequest, tree: Path) -> Subject:
    return FORMATS[request.param](tree)


def test_the_table_has_exactly_the_entries_of_the_archive(subject: Subject) -> None:
    plain = [replace(entry, digest="", chunks=()) for entry in subject.entries()]
    assert plain == subject.content.entries
    assert len({entry.path for entry in plain}) > 300


def test_every_file_is_its_chunks_one_after_the_other(subject: Subject) -> None:
    for entry in subject.entries():
        content = subject.content.contents.get(entry.path, b"")
        pieces = [read_chunk(subject.contents, subject.read(one.offset, one.length), one) for one in entry.chunks]
        assert b"".join(pieces) == content
        assert [one.start for one in entry.chunks] == [sum(map(len, pieces[:n])) for n in range(len(pieces))]
        assert entry.digest == (oci.sha256(content) if content else "")


def test_no_chunk_reaches_outside_the_blob(subject: Subject) -> None:
    for entry in subject.entries():
        for one in entry.chunks:
            assert one.zeros or 0 <= one.offset < one.offset + one.length <= subject.descriptor.size


def test_chunks_that_share_their_bytes_are_inflated_once(subject: Subject) -> None:
    chunks = [one for entry in subject.entries() for one in entry.chunks if not one.zeros]
    taken: list[tuple[int, int]] = []

    def take(offset: int, length: int) -> bytes:
        taken.append((offset, length))
        return subject.read(offset, length)

    reader = ChunkReader(subject.contents)
    for one in sorted(chunks, key=lambda chunk: (chunk.offset, chunk.inner)):
        assert oci.sha256(reader.content(one, take, "")) == one.digest or not one.digest
    assert sorted(taken) == sorted({(one.offset, one.length) for one in chunks})


def test_a_table_that_was_changed_is_refused(subject: Subject) -> None:
    table = subject.table
    for at in range(0, len(table), max(1, len(table) // 300)):
        damaged = bytearray(table)
        damaged[at] ^= 1
        try:
            entries = subject.parse(bytes(damaged))
        except Corrupt as error:
            assert "the blob" in str(error)  # noqa: PT017  it may also be of no consequence
        else:
            assert entries == subject.entries()
    for wrong in (table[:-1], table[: len(table) // 2], b""):
        with suppress(Corrupt):
            assert subject.parse(wrong) == subject.entries()


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_bytes_never_become_content(subject: Subject, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from([entry for entry in subject.entries() if entry.chunks]))
    chunk = data.draw(st.sampled_from(entry.chunks))
    damaged = bytearray(subject.read(chunk.offset, chunk.length))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    expected = subject.content.contents[entry.path][chunk.start : chunk.start + chunk.size]
    try:
        content = read_chunk(subject.contents, damaged, chunk, "the blob")
    except ShipwayError as error:
        assert isinstance(error, Corrupt)  # noqa: PT017  it may also hit what belongs to no content
    else:
        assert content == expected
