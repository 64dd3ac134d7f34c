"""Packing: what goes in comes out, always as the same bytes, and other programs can read it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.layers import cut, packed
from support.trees import describe, make_varied_tree

from shipway import oci
from shipway.errors import Invalid, NoSpace, ShipwayError, SizeMismatch, Truncated
from shipway.layers.compression import Compression, compression_of, decompressed
from shipway.layers.pack import pack
from shipway.layers.unpack import unpack
from shipway.progress import Progress
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry
from shipway.trees.writer import TreeWriter

DECOMPRESS = {
    Compression.ZSTD_CHUNKED: ["zstd", "-dcq"],
    Compression.ZSTD: ["zstd", "-dcq"],
    Compression.GZIP: ["gzip", "-dc"],
    Compression.ESTARGZ: ["gzip", "-dc"],
    Compression.UNCOMPRESSED: ["cat"],
}
EVERY = pytest.mark.parametrize("compression", list(Compression))


def archive_of(blob: bytes, compression: Compression) -> bytes:
    source = decompressed(cut(blob), compression)
    buffer = bytearray(64 << 20)
    return bytes(buffer[: source.readinto(memoryview(buffer))])


@EVERY
def test_what_was_packed_unpacks_to_the_same_tree(tmp_path: Path, compression: Compression) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    layer = packed(tree, compression)
    target = tmp_path / "target"
    target.mkdir()
    with TreeWriter(target) as sink:
        unpacked = unpack(cut(layer.blob), layer.packed.descriptor, layer.packed.diff_id, sink)
        sink.finish()
    assert describe(target) == describe(tree)
    assert unpacked.entries == len(layer.entries)
    assert unpacked.diff_size == layer.packed.diff_size


@EVERY
def test_the_descriptor_tells_the_truth(tmp_path: Path, compression: Compression) -> None:
    layer = packed(make_varied_tree(tmp_path / "tree"), compression)
    descriptor = layer.packed.descriptor
    oci.verify(layer.blob, descriptor.digest, descriptor.size, "")
    archive = archive_of(layer.blob, compression_of(descriptor.media_type))
    assert oci.sha256(archive) == layer.packed.diff_id == descriptor.annotations[oci.UNCOMPRESSED]
    assert len(archive) == layer.packed.diff_size


def test_every_compression_but_estargz_holds_the_same_archive(tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    diff_ids = {compression: packed(tree, compression).packed.diff_id for compression in Compression}
    assert diff_ids.pop(Compression.ESTARGZ) not in diff_ids.values()
    assert len(set(diff_ids.values())) == 1


@EVERY
def test_the_number_of_threads_does_not_show(tmp_path: Path, compression: Compression) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    for number in range(300):
        (tree / f"file-{number}").write_bytes(os.urandom(20_000))
    os.truncate(tree / "file-0", 9 << 20)
    blobs = {hashlib.sha256(packed(tree, compression, threads=threads).blob).hexdigest() for threads in (1, 2, 5)}
    assert len(blobs) == 1


def test_a_copy_made_in_another_order_packs_to_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree, names in ((one, "abc"), (other, "cab")):
        tree.mkdir()
        for name in names:
            (tree / name).write_text(name)
            os.utime(tree / name, ns=(1, 2))
        os.utime(tree, ns=(3, 4))
    assert packed(one).blob == packed(other).blob


def test_holes_on_disk_and_zeros_on_disk_pack_to_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree in (one, other):
        tree.mkdir()
    with (one / "file").open("wb") as file:
        file.write(b"head")
        file.truncate(7_000_001)
        file.seek(5_000_001)
        file.write(os.urandom(70_000))
    (other / "file").write_bytes((one / "file").read_bytes())
    assert (other / "file").stat().st_blocks > (one / "file").stat().st_blocks
    for path in (one / "file", other / "file", one, other):
        os.utime(path, ns=(5, 5))
    assert packed(one).blob == packed(other).blob


@EVERY
def test_the_compressors_own_programs_read_the_blob(tmp_path: Path, compression: Compression) -> None:
    layer = packed(make_varied_tree(tmp_path / "tree"), compression)
    done = subprocess.run(DECOMPRESS[compression], input=layer.blob, capture_output=True, check=True)
    assert oci.sha256(done.stdout) == layer.packed.diff_id


def test_gnu_tar_unpacks_the_same_tree(tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    layer = packed(tree)
    target = tmp_path / "target"
    target.mkdir()
    command = ["tar", "--zstd", "-xp", "--xattrs", "--xattrs-include=*", "-C", str(target)]
    done = subprocess.run(command, input=layer.blob, capture_output=True, check=True)
    assert done.stderr == b""
    assert describe(target) == describe(tree)


def test_python_reads_every_header(tmp_path: Path) -> None:
    layer = packed(make_varied_tree(tmp_path / "tree"), Compression.UNCOMPRESSED)
    with tarfile.open(fileobj=io.BytesIO(layer.blob), errors="surrogateescape") as archive:
        members = archive.getmembers()
    assert [member.name.removeprefix(".") for member in members] == [entry.path for entry in layer.entries]
    for member, entry in zip(members, layer.entries, strict=True):
        assert (member.mode, member.uid, member.gid, member.size) == (entry.mode, entry.uid, entry.gid, entry.size)
        assert member.linkname == entry.link
        assert (member.devmajor, member.devminor) == entry.dev
        assert member.mtime == pytest.approx(entry.mtime_ns / 1e9)
        assert (member.uname, member.gname) == ("", "")


def test_whiteouts_are_written_as_the_image_specification_says(tmp_path: Path) -> None:
    entries = [
        Entry(path="", kind="opaque"),
        Entry(path="a/b", kind="whiteout"),
        Entry(path="c", kind="whiteout"),
        Entry(path="d", kind="opaque"),
    ]
    out = io.BytesIO()
    with DirectoryTree(tmp_path) as tree:
        pack(tree, entries, out, compression=Compression.UNCOMPRESSED)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        found = [(member.name, member.isreg(), member.size) for member in archive]
    assert found == [(name, True, 0) for name in (".wh..wh..opq", "a/.wh.b", ".wh.c", "d/.wh..wh..opq")]


def test_a_name_that_would_mean_a_removal_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".wh.important").write_text("")
    with pytest.raises(Invalid, match=r"\.wh\.important.*removal"):
        packed(tmp_path)


@pytest.mark.parametrize(("size", "error"), [(10, Truncated), (30, SizeMismatch)])
@pytest.mark.parametrize("base", [0, 3 << 20])
def test_a_file_that_changes_while_it_is_packed_is_an_error(
    tmp_path: Path, size: int, error: type[ShipwayError], base: int
) -> None:
    path = tmp_path / "moving"
    path.write_bytes(bytes(base) + b"x" * 20)
    with DirectoryTree(tmp_path) as tree:
        entries = list(changes(None, tree))
        path.write_bytes(bytes(base) + b"x" * size)
        with pytest.raises(error, match="moving"):
            pack(tree, entries, io.BytesIO())


def test_levels_are_checked(tmp_path: Path) -> None:
    with DirectoryTree(tmp_path) as tree:
        for compression, level in ((Compression.ZSTD, 23), (Compression.GZIP, 9), (Compression.UNCOMPRESSED, 1)):
            with pytest.raises(Invalid, match=f"{compression}.*{level}"):
                pack(tree, [], io.BytesIO(), compression=compression, level=level)


def test_a_full_disk_is_no_space(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    with DirectoryTree(tmp_path) as tree, open("/dev/full", "wb", buffering=0) as out, pytest.raises(NoSpace):
        pack(tree, changes(None, tree), out)


def test_progress_reaches_the_total_and_may_stop_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    seen: list[Progress] = []
    with DirectoryTree(tmp_path) as tree:
        entries = list(changes(None, tree))
        pack(tree, entries, io.BytesIO(), progress=seen.append)
        assert [(one.done, one.total) for one in seen][-1] == (5 << 20, 5 << 20)

        def stop(_progress: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack(tree, entries, io.BytesIO(), progress=stop)


def test_an_empty_tree_packs(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    layer = packed(tmp_path / "tree")
    assert [entry.path for entry in layer.entries] == [""]
    with tarfile.open(fileobj=io.BytesIO(archive_of(layer.blob, Compression.ZSTD))) as archive:
        assert archive.getnames() == ["."]
