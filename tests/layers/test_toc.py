"""The table of contents: it describes exactly the archive, and its lies are found out."""

from __future__ import annotations

import base64
import json
import os
import resource
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from fastcrc import crc64
from hypothesis import given, settings
from hypothesis import strategies as st
from support.layers import Collected, Layer, cut, packed
from support.trees import make_varied_tree

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError, SizeMismatch, Truncated, UnsafeEntry
from shipway.layers.compression import Compression
from shipway.layers.toc import TocLocation, decode_chunk, parse_toc, toc_location
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.entry import Chunk, Entry

PREFIX = "io.github.containers.zstd-chunked."
OLD = "io.containers.zstd-chunked."
Json = dict[str, Any]


@pytest.fixture(name="layer", scope="module")
def make_layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    tree = make_varied_tree(tmp_path_factory.mktemp("toc") / "tree")
    (tree / "random").write_bytes(os.urandom(6_000_000))
    with (tree / "riddled").open("wb") as file:
        for number in range(12):
            file.seek(number * 700_000)
            file.write(os.urandom(300_000))
    (tree / "large-zeros").write_bytes(b"")
    os.truncate(tree / "large-zeros", 4_000_001)
    os.setxattr(tree / "random", os.fsdecode(b"user.\xff=100%"), b"\0\xff")
    return packed(tree)


def located(layer: Layer) -> tuple[TocLocation, bytes]:
    location = toc_location(layer.packed.descriptor)
    assert location is not None
    return location, layer.blob[location.offset : location.offset + location.length]


def content(layer: Layer) -> Collected:
    sink = Collected()
    unpack(cut(layer.blob), layer.packed.descriptor, layer.packed.diff_id, sink)
    return sink


def inflated(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


def parsed(layer: Layer) -> list[Entry]:
    location, data = located(layer)
    return list(parse_toc(data, location, "the blob"))


def test_the_table_has_exactly_the_entries_of_the_archive(layer: Layer) -> None:
    plain = [msgspec.structs.replace(entry, digest="", chunks=()) for entry in parsed(layer)]
    assert plain == content(layer).entries


def test_every_chunk_decodes_from_its_range_to_its_digest(layer: Layer) -> None:
    contents = content(layer).contents
    for entry in parsed(layer):
        if entry.kind != "reg":
            assert entry.chunks == ()
            continue
        pieces = [decode_chunk(layer.blob[c.offset : c.offset + c.length], c) for c in entry.chunks]
        assert b"".join(pieces) == contents[entry.path]
        assert entry.digest == (oci.sha256(contents[entry.path]) if entry.size else "")
        for chunk, piece in zip(entry.chunks, pieces, strict=True):
            assert chunk.digest == ("" if chunk.zeros else oci.sha256(piece))


def test_files_are_cut_by_content_and_around_holes(layer: Layer) -> None:
    entries = {entry.path: entry for entry in parsed(layer)}
    assert len(entries["random"].chunks) > 4
    assert all(chunk.size <= 2 << 20 for chunk in entries["random"].chunks)
    assert [chunk.zeros for chunk in entries["large-zeros"].chunks] == [True]
    assert sum(chunk.zeros for chunk in entries["riddled"].chunks) == 11
    assert all(len(entry.chunks) == 1 for entry in entries.values() if 0 < entry.size < 2 << 20)


def test_chunks_shared_by_shifted_files_have_the_same_digests(tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "one").write_bytes(data)
    (tmp_path / "other").write_bytes(b"inserted" + data)
    one, other = (entry for entry in parsed(packed(tmp_path)) if entry.kind == "reg")
    shared = {chunk.digest for chunk in one.chunks} & {chunk.digest for chunk in other.chunks}
    assert len(shared) >= len(one.chunks) - 2


def test_the_tar_split_restores_the_archive_bit_by_bit(layer: Layer) -> None:
    location, data = located(layer)
    at, length, size = map(int, layer.packed.descriptor.annotations[PREFIX + "tarsplit-position"].split(":"))
    split = layer.blob[at : at + length]
    assert json.loads(inflated(data))["tarSplitDigest"] == oci.sha256(split)
    text = inflated(split)
    assert len(text) == size
    contents = content(layer).contents
    archive, names = [], []
    for position, line in enumerate(text.splitlines()):
        record = json.loads(line)
        assert record["position"] == position
        payload = base64.b64decode(record["payload"] or "")
        if record["type"] == 2:
            archive.append(payload)
            continue
        name = os.fsdecode(base64.b64decode(record["name_raw"])) if "name_raw" in record else record["name"]
        names.append(name)
        if record["size"]:
            assert payload == crc64.go_iso(contents[name]).to_bytes(8, "big")
            archive.append(contents[name])
    assert oci.sha256(b"".join(archive)) == layer.packed.diff_id
    assert [name.removeprefix("./").rstrip("/") for name in names] == [entry.path for entry in parsed(layer)]
    assert location.offset + location.length + 8 == at


def test_the_footer_says_what_the_annotations_say(layer: Layer) -> None:
    annotations = layer.packed.descriptor.annotations
    *numbers, magic = struct.unpack("<7Q8s", layer.blob[-64:])
    assert magic == b"GNUlInUx"
    assert ":".join(map(str, numbers[:4])) == annotations[PREFIX + "manifest-position"]
    assert ":".join(map(str, numbers[4:])) == annotations[PREFIX + "tarsplit-position"]
    assert layer.blob[-72:-64] == struct.pack("<II", 0x184D2A50, 64)


def test_names_that_are_not_utf8_are_kept_beside_what_json_can_hold(layer: Layer) -> None:
    _, data = located(layer)
    (record,) = [one for one in json.loads(inflated(data))["entries"] if "nameRaw" in one]
    assert record["name"] == "not-utf8-\ufffd\ufffd"
    assert base64.b64decode(record["nameRaw"]) == b"not-utf8-\xff\xfe"


@pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.GZIP, Compression.UNCOMPRESSED])
def test_other_layers_have_no_table(tmp_path: Path, compression: Compression) -> None:
    assert toc_location(packed(tmp_path, compression).packed.descriptor) is None


# -- tables of other writers

FRAME = zstandard.compress(b"content")
DIGEST = oci.sha256(b"content")
FILE: Json = {"type": "reg", "name": "f", "mode": 0o644, "size": 7, "digest": DIGEST, "offset": 40, "endOffset": 56}
LIMIT = 1000


def parse(*records: Json, **more: Any) -> list[Entry]:
    text = json.dumps({"version": 1, "entries": list(records), **more}).encode()
    data = zstandard.compress(text)
    return list(parse_toc(data, TocLocation(LIMIT, len(data), len(text), oci.sha256(data)), "the blob"))


def test_the_first_generation_is_read() -> None:
    old = {
        **FILE,
        "accesstime": "0001-01-01T00:00:00Z",
        "changetime": "0001-01-01T00:00:00Z",
        "modtime": "2020-01-02T03:04:05+01:00",
    }
    (entry,) = parse(old)
    assert entry.mtime_ns == 1_577_930_645 * 10**9
    assert entry.chunks == (Chunk(40, 16, 0, 7, DIGEST),)


def test_files_that_do_not_say_where_they_end_end_before_the_next() -> None:
    one = {**FILE, "endOffset": 0, "chunkSize": 4, "chunkDigest": DIGEST}
    rest = {"type": "chunk", "name": "f", "offset": 60, "chunkOffset": 4, "chunkDigest": DIGEST}
    (one_entry, other) = parse(one, rest, {**FILE, "name": "g", "offset": 90, "endOffset": 0})
    assert [(chunk.offset, chunk.length, chunk.size) for chunk in one_entry.chunks] == [(40, 20, 4), (60, 30, 3)]
    assert other.chunks == (Chunk(90, LIMIT - 90, 0, 7, DIGEST),)


def test_removals_become_what_they_mean() -> None:
    names = ("a/.wh.b", "a/.wh..wh..opq", ".wh..wh.plnk/1.2", "a/b")
    entries = parse(*({"type": "reg", "name": name} for name in names))
    assert [(entry.kind, entry.path) for entry in entries] == [("whiteout", "a/b"), ("opaque", "a"), ("reg", "a/b")]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ("2023-11-15T00:13:20.1+02:00", 1_700_000_000_100_000_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799 * 10**9),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert parse({**FILE, "modtime": text})[0].mtime_ns == ns


LIES: dict[str, list[Json]] = {
    "twice": [FILE, FILE],
    "twice, written differently": [FILE, {**FILE, "name": "./f"}],
    "unknown type": [{**FILE, "type": "socket"}],
    "a chunk of nothing": [{"type": "chunk", "name": "f"}],
    "a chunk of a directory": [{"type": "dir", "name": "d"}, {"type": "chunk", "name": "d", "offset": 9}],
    "content of a directory": [{**FILE, "type": "dir"}],
    "no digest": [{**FILE, "digest": ""}],
    "a digest of another kind": [{**FILE, "digest": "md5:0123"}],
    "a range beyond the frames": [{**FILE, "endOffset": LIMIT + 1}],
    "a range backwards": [{**FILE, "endOffset": 30}],
    "a negative size": [{**FILE, "size": -1}],
    "a negative offset": [{**FILE, "offset": -1}],
    "an absurd size": [{**FILE, "size": 1 << 80}],
    "a chunk larger than the file": [{**FILE, "chunkSize": 8, "chunkDigest": DIGEST}],
    "chunks with a gap": [
        {**FILE, "chunkSize": 3, "chunkDigest": DIGEST},
        {"type": "chunk", "name": "f", "offset": 50, "chunkOffset": 4, "chunkSize": 3, "chunkDigest": DIGEST},
    ],
    "chunks out of order": [
        {**FILE, "chunkSize": 3, "chunkDigest": DIGEST},
        {"type": "chunk", "name": "f", "offset": 39, "chunkOffset": 3, "chunkSize": 4, "chunkDigest": DIGEST},
    ],
    "a chunk without digest": [
        {**FILE, "chunkSize": 3, "chunkDigest": DIGEST},
        {"type": "chunk", "name": "f", "offset": 50, "chunkOffset": 3, "chunkSize": 4},
    ],
    "not a time": [{**FILE, "modtime": "yesterday"}],
    "no such day": [{**FILE, "modtime": "2023-02-31T00:00:00Z"}],
    "not base64": [{**FILE, "xattrs": {"user.a": "%%%"}}],
    "a link to nothing": [{"type": "symlink", "name": "l"}],
    "below a removal": [{"type": "reg", "name": ".wh.a/b"}],
    "a name too long": [{"type": "dir", "name": "n" * 20_000}],
    "a number for a name": [{"type": "dir", "name": 5}],
}
UNSAFE: dict[str, Json] = {
    "absolute": {"type": "dir", "name": "/etc"},
    "parent": {"type": "dir", "name": "a/../.."},
    "raw": {"type": "dir", "name": "fine", "nameRaw": base64.b64encode(b"../\xff").decode()},
    "hard link": {"type": "hardlink", "name": "l", "linkName": "../etc/passwd"},
    "removal": {"type": "reg", "name": "a/.wh..."},
    "symlink as the root": {"type": "symlink", "name": "./", "linkName": "/"},
}


@pytest.mark.parametrize("records", LIES.values(), ids=LIES)
def test_a_table_that_cannot_be_is_corrupt(records: list[Json]) -> None:
    with pytest.raises(Corrupt, match="the blob"):
        parse(*records)


@pytest.mark.parametrize("record", UNSAFE.values(), ids=UNSAFE)
def test_a_table_that_would_reach_outside_is_unsafe(record: Json) -> None:
    with pytest.raises(UnsafeEntry, match="the blob"):
        parse(record)


def test_another_version_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="version 7"):
        parse(version=7)


def test_a_table_is_checked_before_it_is_looked_at(layer: Layer) -> None:
    location, data = located(layer)
    changed = bytearray(data)
    changed[50] ^= 1
    with pytest.raises(DigestMismatch):
        parse_toc(bytes(changed), location)
    with pytest.raises(Truncated):
        parse_toc(data[:-1], location)
    for size, error in ((location.uncompressed - 1, SizeMismatch), (location.uncompressed + 1, Truncated)):
        with pytest.raises(error):
            parse_toc(data, TocLocation(location.offset, location.length, size, location.digest))


# -- where a table is

GOOD = {PREFIX + "manifest-checksum": DIGEST, PREFIX + "manifest-position": "10:20:30:1"}


def described(annotations: dict[str, str]) -> Descriptor:
    return Descriptor(media_type=oci.LAYER_ZSTD, digest=DIGEST, size=100, annotations=annotations)


def test_a_table_is_found_under_both_names() -> None:
    expected = TocLocation(10, 20, 30, DIGEST)
    assert toc_location(described(GOOD)) == expected
    assert toc_location(described({key.replace(PREFIX, OLD): value for key, value in GOOD.items()})) == expected
    assert toc_location(described({})) is None


@pytest.mark.parametrize(
    "annotations",
    [
        {**GOOD, "containerd.io/snapshot/stargz/toc.digest": DIGEST},
        {PREFIX + "manifest-checksum": DIGEST},
        {**GOOD, PREFIX + "manifest-position": "10:20:30:2"},
        {**GOOD, PREFIX + "manifest-position": "-10:20:30:1"},
        {**GOOD, PREFIX + "manifest-position": "90:20:30:1"},
        {**GOOD, PREFIX + "manifest-position": "10:0:30:1"},
        {**GOOD, PREFIX + "manifest-position": f"10:20:{1 << 40}:1"},
        {**GOOD, PREFIX + "manifest-checksum": "sha256:short"},
    ],
)
def test_annotations_that_make_no_sense_are_corrupt(annotations: dict[str, str]) -> None:
    with pytest.raises(Corrupt, match=DIGEST):
        toc_location(described(annotations))


# -- single chunks


def test_a_chunk_is_checked() -> None:
    chunk = Chunk(0, len(FRAME), 0, 7, DIGEST)
    assert decode_chunk(memoryview(FRAME), chunk) == b"content"
    wrong: list[tuple[Callable[[], bytes], type[ShipwayError]]] = [
        (lambda: decode_chunk(FRAME[:-1], chunk), Truncated),
        (lambda: decode_chunk(FRAME + b"x", chunk), SizeMismatch),
        (lambda: decode_chunk(FRAME, Chunk(0, len(FRAME), 0, 6, DIGEST)), DigestMismatch),
        (lambda: decode_chunk(FRAME, Chunk(0, len(FRAME), 0, 8, DIGEST)), Truncated),
        (lambda: decode_chunk(FRAME, Chunk(0, len(FRAME), 0, 7, oci.sha256(b"other"))), DigestMismatch),
        (lambda: decode_chunk(b"x" * len(FRAME), chunk), Corrupt),
        (lambda: decode_chunk(FRAME, Chunk(0, len(FRAME), 0, 1 << 50, DIGEST)), Corrupt),
    ]
    for call, error in wrong:
        with pytest.raises(error):
            call()


def test_a_chunk_may_be_several_frames() -> None:
    data = zstandard.compress(b"con") + zstandard.compress(b"tent")
    assert decode_chunk(data, Chunk(0, len(data), 0, 7, DIGEST)) == b"content"


def test_what_follows_a_chunk_in_its_range_is_not_read() -> None:
    data = FRAME + zstandard.compress(b"the next header")
    assert decode_chunk(data, Chunk(0, len(data), 0, 7, DIGEST)) == b"content"
    together = zstandard.compress(b"content" + b"the next header")
    assert decode_chunk(together, Chunk(0, len(together), 0, 7, DIGEST)) == b"content"


def test_a_bomb_in_a_chunk_is_not_inflated() -> None:
    bomb = zstandard.compress(bytes(200 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DigestMismatch):
        decode_chunk(bomb, Chunk(0, len(bomb), 0, 1000, DIGEST))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@settings(max_examples=200)
@given(st.data())
def test_damaged_tables_raise_only_typed_errors(data: st.DataObject) -> None:
    text = bytearray(
        json.dumps({"version": 1, "entries": [FILE, {"type": "symlink", "name": "l", "linkName": "f"}]}).encode()
    )
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    packed_table = zstandard.compress(bytes(text))
    location = TocLocation(LIMIT, len(packed_table), len(text), oci.sha256(packed_table))
    with suppress(ShipwayError):
        list(parse_toc(packed_table, location))
