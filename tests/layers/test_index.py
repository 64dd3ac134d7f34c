"""What an index is made of, beyond what layers usually have."""

from __future__ import annotations

import random

import pytest
import zstandard

from shipway import oci
from shipway.layers.compression import Compression, media_type
from shipway.layers.index import Index, IndexBuilder, indexed
from shipway.oci import Descriptor
from shipway.trees.entry import Entry

MIB = 1 << 20


def describe_blob(blob: bytes, compression: Compression) -> Descriptor:
    return Descriptor(media_type=media_type(compression), digest=oci.sha256(blob), size=len(blob))


def builder_of(blob: bytes, compression: Compression) -> IndexBuilder:
    builder = indexed(iter([blob]), describe_blob(blob, compression), "the blob")
    assert builder is not None
    return builder


def read(builder: IndexBuilder, size: int) -> int:
    return builder.readinto(memoryview(bytearray(size)))


def test_many_entries_are_as_they_were_told() -> None:
    """So many that they are in many frames, each of which is read when it is needed."""
    blob = bytes(10_240)
    builder = builder_of(blob, Compression.UNCOMPRESSED)
    read(builder, MIB)
    noise = random.Random(5)
    entries = [
        Entry(path=f"{noise.randbytes(60).hex()}/{number}", kind="symlink", link="target", mtime_ns=number)
        for number in range(70_000)
    ]
    for entry in entries:
        builder.add(entry, "")
    data = builder.finish()
    assert data is not None
    found = Index(data, describe_blob(blob, Compression.UNCOMPRESSED)).parse(
        bytes(data.read(0, len(data))), "the index"
    )
    assert list(found) == entries
    assert found.entry(69_999) == entries[69_999]
    assert found.entry(3) == entries[3]


def test_of_a_frame_that_is_too_large_nothing_is_kept_once_that_is_seen() -> None:
    builder = builder_of(zstandard.compress(bytes(40 * MIB)), Compression.ZSTD)
    assert read(builder, 15 * MIB) == 15 * MIB
    said = [builder.listening]
    assert read(builder, 2 * MIB) == 2 * MIB
    said.append(builder.listening)
    assert said == [True, False]
    builder.add(Entry(path="one more", kind="dir"), "")
    assert read(builder, 40 * MIB) == 23 * MIB
    assert builder.finish() is None


@pytest.mark.parametrize("ns", [1 << 64, -(1 << 64)])
def test_a_time_that_is_none_leaves_a_layer_without(ns: int) -> None:
    builder = builder_of(bytes(10_240), Compression.UNCOMPRESSED)
    read(builder, MIB)
    builder.add(Entry(path="before", kind="dir"), "")
    builder.add(Entry(path="dir", kind="dir", mtime_ns=ns), "")
    assert not builder.listening
    assert builder.finish() is None


def test_a_content_that_no_sha256_is_known_of_leaves_a_layer_without() -> None:
    builder = builder_of(bytes(10_240), Compression.UNCOMPRESSED)
    read(builder, MIB)
    builder.add(Entry(path="file", kind="reg", size=1 << 40), "holes:00", [(0, 512, 10)])
    assert builder.finish() is None
