"""eStargz: what others write is read, what we write others read, and no footer is believed."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.layers import Collected, cut, packed
from support.trees import make_varied_tree

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, Invalid, Truncated
from shipway.layers.compression import Compression
from shipway.layers.contents import read_chunk
from shipway.layers.estargz import FOOTER, stargz
from shipway.layers.formats import contents_of
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.entry import Entry

FIXTURES = Path(__file__).parent.parent / "fixtures"
TOC = "containerd.io/snapshot/stargz/toc.digest"
OLD_FOOTER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x16\0%016xSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"


def layers_of(name: str) -> list[tuple[Descriptor, bytes]]:
    """Return the layers of the only image in an OCI layout."""
    with tarfile.open(FIXTURES / name) as archive:
        files = {
            member.name.removeprefix("./"): opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }

    def blob(digest: str) -> bytes:
        return files["blobs/sha256/" + digest.removeprefix("sha256:")]

    document = blob(json.loads(files["index.json"])["manifests"][0]["digest"])
    if b'"manifests"' in document:
        document = blob(json.loads(document)["manifests"][0]["digest"])
    return [(layer, blob(layer.digest)) for layer in oci.decode(document, oci.Manifest, name).layers]


def listed(descriptor: Descriptor, blob: bytes) -> tuple[list[Entry], dict[str, bytes], int]:
    """Return what the table of contents leads to, and how many requests it took to get it."""
    contents = contents_of(descriptor)
    assert contents is not None
    requests = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal requests
        requests += 1
        return blob[offset : offset + length]

    entries = list(contents.parse(contents.fetch(read, "blob"), "blob"))
    found = {
        entry.path: b"".join(
            read_chunk(contents, blob[one.offset : one.offset + one.length], one) for one in entry.chunks
        )
        for entry in entries
        if entry.is_file
    }
    return entries, found, requests


@pytest.mark.parametrize(
    "name", ["buildkit/cache-estargz.oci.tar", "stargz/estargz.oci.tar", "stargz/zstdchunked.oci.tar"]
)
def test_layers_of_other_programs_are_listed_and_read_as_they_unpack(name: str) -> None:
    for descriptor, blob in layers_of(name):
        sink = Collected()
        unpack(cut(blob), descriptor, None, sink)
        entries, contents, requests = listed(descriptor, blob)
        # These programs write whole seconds into their tables.
        assert [replace(entry, digest="", chunks=()) for entry in entries] == [
            replace(entry, mtime_ns=entry.mtime_ns // 10**9 * 10**9) for entry in sink.entries
        ]
        assert contents == sink.contents
        assert requests == 1


def test_large_files_of_other_programs_are_cut() -> None:
    ((descriptor, blob),) = layers_of("stargz/estargz.oci.tar")
    entries, _, _ = listed(descriptor, blob)
    assert max(len(entry.chunks) for entry in entries) == 5


def test_what_stargz_snapshotter_says_twice_has_to_be_right_twice() -> None:
    ((descriptor, blob),) = layers_of("stargz/zstdchunked.oci.tar")
    assert TOC in descriptor.annotations
    with pytest.raises(DigestMismatch):
        listed(oci.annotated(descriptor, {TOC: oci.sha256(b"another")}), blob)


def test_the_footer_of_before_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    layer = packed(tmp_path, Compression.ESTARGZ)
    offset = int(layer.blob[-51:][16:32], 16)
    blob = layer.blob[:-51] + OLD_FOOTER % offset
    descriptor = replace(layer.packed.descriptor, size=len(blob), digest=oci.sha256(blob))
    _, contents, _ = listed(descriptor, blob)
    assert contents == {"f": b"content"}
    assert len(OLD_FOOTER % offset) == 47


def test_without_the_annotation_the_footer_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    layer = packed(tmp_path, Compression.ESTARGZ)
    bare = replace(layer.packed.descriptor, annotations={})
    assert contents_of(bare) is None
    sink = Collected()
    unpack(cut(layer.blob), bare, layer.packed.diff_id, sink)
    assert sink.contents == {"f": b"content"}


@pytest.mark.parametrize(
    "footer", [FOOTER % 0, FOOTER % (1 << 60), FOOTER % 10_000, b"x" * 51, FOOTER[:16] + b"z" * 37]
)
def test_a_footer_that_leads_elsewhere_leads_to_no_table(tmp_path: Path, footer: bytes) -> None:
    (tmp_path / "f").write_bytes(os.urandom(20_000))
    layer = packed(tmp_path, Compression.ESTARGZ)
    blob = layer.blob[:-51] + footer
    with pytest.raises(Corrupt):
        listed(replace(layer.packed.descriptor, size=len(blob)), blob)


def test_a_table_larger_than_the_end_that_is_read_first_takes_one_more_request(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:05}").write_bytes(os.urandom(40))
    layer = packed(tmp_path, Compression.ESTARGZ)
    entries, _, requests = listed(layer.packed.descriptor, layer.blob)
    assert len(entries) == 3001
    assert requests == 2


def test_a_digest_that_is_none_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        stargz(Descriptor(media_type=oci.LAYER_GZIP, digest=oci.sha256(b""), size=1, annotations={TOC: "md5:1"}))


def test_gzip_and_tar_read_what_we_write(tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    layer = packed(tree, Compression.ESTARGZ)
    (tmp_path / "layer.tgz").write_bytes(layer.blob)
    plain = gzip.decompress(layer.blob)
    assert oci.sha256(plain) == layer.packed.diff_id == layer.packed.descriptor.annotations[oci.UNCOMPRESSED]
    assert layer.packed.descriptor.annotations["io.containers.estargz.uncompressed-size"] == str(len(plain))
    listing = subprocess.run(
        ["tar", "-tzf", tmp_path / "layer.tgz"], capture_output=True, check=True
    ).stdout.splitlines()
    assert listing[0] == b".no.prefetch.landmark"
    assert listing[-1] == b"stargz.index.json"
    assert len(listing) == len(layer.entries) + 2
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        table = archive.extractfile("stargz.index.json")
        assert table is not None
        assert oci.sha256(table.read()) == layer.packed.descriptor.annotations[TOC]


def test_a_member_begins_where_the_format_says(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(os.urandom(5 << 20))
    (tmp_path / "c").write_bytes(b"three")
    layer = packed(tmp_path, Compression.ESTARGZ)
    starts = {0, int(layer.blob[-51:][16:32], 16), layer.packed.descriptor.size - 51}
    entries, _, _ = listed(layer.packed.descriptor, layer.blob)
    starts |= {chunk.offset for entry in entries for chunk in entry.chunks}
    assert all(layer.blob[start : start + 3] == b"\x1f\x8b\x08" for start in starts)
    assert len(starts) > 3 + 4


@pytest.mark.parametrize("name", ["stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark"])
def test_names_that_the_format_takes_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / name).touch()
    packed(tmp_path, Compression.ZSTD)
    (tmp_path / name).touch()
    with pytest.raises(Invalid, match="table of contents"):
        packed(tmp_path, Compression.ZSTD)


def test_a_tree_is_the_same_after_it_was_estargz(tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    one, other = (Collected(), Collected())
    for sink, compression in ((one, Compression.ESTARGZ), (other, Compression.UNCOMPRESSED)):
        layer = packed(tree, compression)
        unpack(cut(layer.blob), layer.packed.descriptor, layer.packed.diff_id, sink)
    assert (one.entries, one.contents) == (other.entries, other.contents)


def test_a_table_that_ends_early_is_truncated(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    layer = packed(tmp_path, Compression.ESTARGZ)
    contents = contents_of(layer.packed.descriptor)
    assert contents is not None
    table = contents.fetch(lambda offset, length: layer.blob[offset : offset + length], "blob")
    with pytest.raises(Truncated):
        contents.parse(table[: len(table) // 3], "blob")


def test_several_chunks_in_one_member_are_read(tmp_path: Path) -> None:
    del tmp_path
    content = b"first" + b"second" * 1000
    member = gzip.compress(b"header" + content)
    records = [
        {"type": "reg", "name": "a", "size": 5, "offset": 0, "innerOffset": 6, "chunkDigest": oci.sha256(b"first")},
        {"type": "reg", "name": "b", "size": 6000, "offset": 0, "innerOffset": 11, "digest": oci.sha256(content[5:])},
    ]
    records[0]["digest"] = records[0]["chunkDigest"]
    text = json.dumps({"version": 1, "entries": records}).encode()
    head = tarfile.TarInfo("stargz.index.json")
    head.size = len(text)
    blob = member + gzip.compress(head.tobuf() + text + bytes(2048)) + FOOTER % len(member)
    descriptor = Descriptor(
        media_type=oci.LAYER_GZIP, digest=oci.sha256(blob), size=len(blob), annotations={TOC: oci.sha256(text)}
    )
    _, contents, _ = listed(descriptor, blob)
    assert contents == {"a": b"first", "b": content[5:]}
