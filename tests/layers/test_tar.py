"""Reading archives of other programs, and of enemies."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.layers import Collected, collect, cut, describe_blob
from support.trees import describe, make_varied_tree

from shipway import oci
from shipway.errors import Corrupt, ShipwayError, Truncated, UnsafeEntry
from shipway.layers import headers
from shipway.layers.blocks import Blocks
from shipway.layers.compression import Compression
from shipway.layers.headers import BLOCK, END_OF_ARCHIVE, header
from shipway.layers.pax import record
from shipway.layers.read import read_layer
from shipway.layers.tar import TarReader
from shipway.layers.unpack import unpack
from shipway.trees.entry import Entry, OpenFile
from shipway.trees.writer import TreeWriter


def member(kind: bytes, data: bytes = b"", *, name: str = "name", link: str = "", size: int | None = None) -> bytes:
    """Return an archive member of any type, with its data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    """Return an extended header; dots in keys are written as two underscores."""
    return member(
        b"x", b"".join(record(key.replace("__", ".").encode(), value.encode()) for key, value in records.items())
    )


@pytest.mark.parametrize("format_", ["gnu", "pax", "ustar"])
def test_what_gnu_tar_writes_unpacks_to_the_same_tree(tmp_path: Path, format_: str) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    if format_ == "ustar":  # which can hold neither such long names nor such large owners
        subprocess.run(["rm", "-r", tree / "deep", tree / "link-to-long", tree / "private"], check=True)
    extra = ["--xattrs", "--xattrs-include=*"] if format_ == "pax" else []
    command = ["tar", "-c", f"--format={format_}", *extra, "-C", str(tree), "."]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    target = tmp_path / "target"
    target.mkdir()
    with TreeWriter(target) as sink:
        unpack(cut(archive), describe_blob(archive, Compression.UNCOMPRESSED), None, sink)
        sink.finish()
    expected = tmp_path / "expected"
    expected.mkdir()
    subprocess.run(["tar", "-xp", *extra, "-C", expected], input=archive, check=True)
    assert describe(target) == describe(expected)


@pytest.mark.parametrize(
    "form", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
)
def test_every_form_of_sparse_file_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(60):
            file.seek(number * 100_000)
            file.write(f"extent {number}".encode() * 100)
        file.truncate(7_000_003)
    (tmp_path / "hollow").write_bytes(b"")
    os.truncate(tmp_path / "hollow", 1 << 20)
    (tmp_path / "z-plain").write_bytes(b"after")
    options = ["--sparse", form] if form == "--format=gnu" else ["--sparse", "--format=pax", form]
    command = ["tar", "-c", *options, "-C", str(tmp_path), "hollow", "sparse", "z-plain"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    seen = collect(archive)
    assert len(archive) < 1_000_000
    assert seen.contents == {name: (tmp_path / name).read_bytes() for name in ("hollow", "sparse", "z-plain")}
    assert seen["sparse"].size == 7_000_003
    assert seen.holes["hollow"] == 1 << 20


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_what_python_writes_is_read(tmp_path: Path, format_: int) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_, errors="surrogateescape") as archive:
        for name in ("bin", "big", "empty", "setuid", "not-utf8-\udcff\udcfe"):
            archive.add(tree / name, name)
    seen = collect(out.getvalue())
    assert seen.contents["big"] == (tree / "big").read_bytes()
    assert seen["bin/link"].link == "tool"
    assert seen["setuid"].mode == 0o4755
    assert seen.contents["not-utf8-\udcff\udcfe"] == b"raw name"


def test_ancient_and_odd_members_are_read() -> None:
    v7 = bytearray(member(b"\0", b"old", name="old"))
    v7[257:512] = bytes(255)
    v7[148:156] = b"%06o\0 " % (sum(v7[:148]) + sum(v7[156:512]) + 256)
    archive = (
        bytes(v7)
        + member(b"\0", name="directory/")
        + member(b"7", b"contiguous", name="contiguous")
        + member(b"V", name="a volume's label")
        + member(b"1", b"", name="hard", link="old", size=3)
    )
    seen = collect(archive + END_OF_ARCHIVE)
    assert [(entry.path, entry.kind) for entry in seen.entries] == [
        ("old", "reg"),
        ("directory", "dir"),
        ("contiguous", "reg"),
        ("hard", "hardlink"),
    ]
    assert seen.contents == {"old": b"old", "contiguous": b"contiguous"}


def test_global_headers_hold_until_overridden() -> None:
    shared = member(b"g", record(b"mtime", b"12.5") + record(b"uid", b"7"))
    archive = (
        shared + member(b"0", name="one") + pax(mtime="-1.25") + member(b"0", name="two") + member(b"0", name="three")
    )
    seen = collect(archive + END_OF_ARCHIVE)
    assert [(entry.mtime_ns, entry.uid) for entry in seen.entries] == [
        (12_500_000_000, 7),
        (-1_250_000_000, 7),
        (12_500_000_000, 7),
    ]


def test_signed_checksums_of_old_programs_are_accepted() -> None:
    block = bytearray(member(b"0", name="caf\xe9"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:512])
    block[148:156] = b"%06o\0 " % signed
    assert collect(bytes(block) + END_OF_ARCHIVE).entries[0].kind == "reg"


def test_long_runs_of_zeros_come_as_holes() -> None:
    content = os.urandom(200_000) + bytes(3_000_000) + b"end"
    archive = member(b"0", b"x", name="before") + member(b"0", content, name="file") + END_OF_ARCHIVE
    seen = collect(archive)
    assert seen.contents["file"] == content
    assert 2_500_000 < seen.holes["file"] <= 3_000_000


def test_names_that_only_drivers_used_are_passed_over() -> None:
    archive = (
        member(b"0", b"x", name="a/.wh..wh.plnk/12.34") + member(b"5", name=".wh..wh.aufs") + member(b"0", name="a/f")
    )
    assert [entry.path for entry in collect(archive + END_OF_ARCHIVE).entries] == ["a/f"]


def test_an_archive_without_end_marker_unpacks_but_is_no_plain_layer_to_read() -> None:
    archive = member(b"0", b"content")
    assert collect(archive).contents == {"name": b"content"}
    assert len(list(read_layer(cut(archive + END_OF_ARCHIVE), oci.LAYER_TAR))) == 1
    with pytest.raises(Truncated, match="here"):
        list(read_layer(cut(archive), oci.LAYER_TAR, "here"))


def test_reading_may_stop_early() -> None:
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield member(b"0", bytes(100_000))

    entry, _content = next(read_layer(pieces(), oci.LAYER_TAR))
    assert entry.path == "name"
    assert asked < 20


UNSAFE = {
    "absolute": member(b"0", name="/etc/passwd"),
    "parent": member(b"0", name="a/../../b"),
    "hard link out": member(b"1", link="../../etc/passwd"),
    "absolute hard link": member(b"1", link="/etc/passwd"),
    "hard link to the root": member(b"1", link="./"),
    "file as the root": member(b"0", name="./"[:1]),
    "symlink as the root": member(b"2", name=".", link="/"),
    "removing the parent": member(b"0", name="a/.wh..."),
    "removing itself": member(b"0", name="a/.wh.."),
    "removing nothing": member(b"0", name="a/.wh."),
    "long name": member(b"L", b"../" * 100 + b"x\0") + member(b"0"),
    "PAX path": pax(path="/absolute") + member(b"0"),
}
MALFORMED = {
    "device as a name with NUL": pax(path="a\0b") + member(b"0"),
    "PAX record too long": member(b"x", b"99 path=x\n") + member(b"0"),
    "PAX record without length": member(b"x", b"path=x\n") + member(b"0"),
    "PAX record without end": member(b"x", b"8 path=xx") + member(b"0"),
    "PAX record of no length": member(b"x", b"0 path=x\n") + member(b"0"),
    "PAX size": pax(size="-5") + member(b"0"),
    "PAX absurd size": pax(size="9" * 30) + member(b"0"),
    "PAX uid": pax(uid="root") + member(b"0"),
    "PAX time": pax(mtime="soon") + member(b"0"),
    "PAX long time": pax(mtime="9" * 400) + member(b"0"),
    "PAX bomb": member(b"x", size=1 << 32),
    "PAX bomb in parts": b"".join(pax(**{f"comment{n}": "x" * 200_000}) for n in range(8)) + member(b"0"),
    "many small headers": b"".join(pax(**{f"comment{n}": "x"}) for n in range(20)) + member(b"0"),
    "many global records": b"".join(member(b"g", record(b"SCHILY.xattr.user.%d" % n, b"x")) for n in range(80))
    + member(b"0"),
    "global bomb of attributes": b"".join(
        member(b"g", record(b"SCHILY.xattr.user.%d" % n, b"x" * 200_000)) for n in range(8)
    )
    + member(b"0"),
    "long name bomb": member(b"L", size=1 << 32),
    "name too long": member(b"L", b"n" * 20_000 + b"\0") + member(b"0"),
    "link too long": member(b"K", b"n" * 20_000 + b"\0") + member(b"2"),
    "symlink to nothing": member(b"2", link=""),
    "unknown type": member(b"Q"),
    "a second volume": member(b"M"),
    "below a removal": member(b"0", name=".wh.a/b"),
    "zeros between": member(b"0") + bytes(512) + member(b"0"),
    "sparse without a size": pax(GNU__sparse__map="0,1") + member(b"0", b"x"),
    "sparse out of order": pax(GNU__sparse__map="5,1,0,1", GNU__sparse__size="9") + member(b"0", b"xx"),
    "sparse odd": pax(GNU__sparse__map="5,1,7", GNU__sparse__size="9") + member(b"0", b"x"),
    "sparse beyond its end": pax(GNU__sparse__map="0,99", GNU__sparse__size="9") + member(b"0", bytes(99)),
    "sparse of another size": pax(GNU__sparse__map="0,2", GNU__sparse__size="9") + member(b"0", b"x"),
    "sparse of an unknown form": pax(GNU__sparse__major="7", GNU__sparse__realsize="9") + member(b"0", b"x"),
    "sparse map bomb": pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="9")
    + member(b"0", b"999999999\n" + bytes(502)),
    "sparse map of nothing": pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="9")
    + member(b"0", bytes(4096)),
}


@pytest.mark.parametrize("archive", UNSAFE.values(), ids=UNSAFE)
def test_an_entry_that_would_reach_outside_is_unsafe(archive: bytes) -> None:
    with pytest.raises(UnsafeEntry):
        collect(archive + END_OF_ARCHIVE)


@pytest.mark.parametrize("archive", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_member_is_corrupt(archive: bytes) -> None:
    with pytest.raises(Corrupt):
        collect(archive + END_OF_ARCHIVE)


def test_errors_name_the_blob_and_the_entry() -> None:
    archive = pax(path="some/file", uid="root") + member(b"0") + END_OF_ARCHIVE
    with pytest.raises(Corrupt, match=r"^the-blob: 'some/file': not a number"):
        list(read_layer(cut(archive), oci.LAYER_TAR, "the-blob"))


@pytest.mark.parametrize("base_256", [b"\xff" * 8 + b"\x00\x00\x00\x05", b"\x80" + b"\xff" * 11])
def test_sizes_out_of_all_bounds_are_corrupt(base_256: bytes) -> None:
    block = bytearray(member(b"0"))
    block[124:136] = base_256
    block[148:156] = b"%06o\0 " % (headers.checksum(bytes(block[:148] + b" " * 8 + block[156:])))
    with pytest.raises(Corrupt):
        collect(bytes(block) + END_OF_ARCHIVE)


def test_base_256_numbers_are_read() -> None:
    block = bytearray(member(b"0"))
    block[108:116] = b"\x80" + (2**31).to_bytes(7, "big")
    block[136:148] = (-5).to_bytes(12, "big", signed=True)
    block[148:156] = b"%06o\0 " % (headers.checksum(bytes(block[:148] + b" " * 8 + block[156:])))
    (entry,) = collect(bytes(block) + END_OF_ARCHIVE).entries
    assert (entry.uid, entry.mtime_ns) == (2**31, -5_000_000_000)


def test_a_wrong_checksum_is_corrupt() -> None:
    block = bytearray(member(b"0", b"content"))
    block[10] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        collect(bytes(block) + END_OF_ARCHIVE)


def test_cut_short_anywhere_an_archive_is_truncated() -> None:
    archive = pax(path="long/name", mtime="1.5") + member(b"0", b"x" * 1000) + member(b"5", name="dir/")
    whole = [entry.path for entry in collect(archive).entries]
    for end in [*range(0, len(archive), 97), *range(0, len(archive), 512)]:
        try:
            seen = [entry.path for entry in collect(archive[:end]).entries]
        except Truncated:
            continue
        assert seen == whole[: len(seen)]
        assert end in (0, len(archive) - 512), "only a whole number of members may end without notice"


@settings(max_examples=300)
@given(st.data())
def test_damage_raises_only_typed_errors(data: st.DataObject) -> None:
    archive = bytearray(
        pax(path="p", GNU__sparse__map="0,2", GNU__sparse__size="9")
        + member(b"0", b"xx")
        + member(b"L", b"long\0")
        + member(b"0", b"content")
        + header(Entry(path="dev", kind="char", dev=(1, 3), mtime_ns=1, xattrs={"user.a": b"b"}), "dev")
        + END_OF_ARCHIVE
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
    blocks = [at for at in range(0, len(archive), 512) if archive[at + 257 : at + 262] == b"ustar"]
    for at in blocks if data.draw(st.booleans()) else ():
        block = bytes(archive[at : at + 148]) + b" " * 8 + bytes(archive[at + 156 : at + 512])
        archive[at + 148 : at + 156] = b"%06o\0 " % headers.checksum(block)
    with suppress(ShipwayError):
        collect(bytes(archive))


@given(st.binary(max_size=3000), st.sampled_from(list(Compression)))
def test_random_bytes_raise_only_typed_errors(data: bytes, compression: Compression) -> None:
    sink = Collected()
    with suppress(ShipwayError):
        unpack(cut(data), describe_blob(data, compression), None, sink)


def test_a_usual_header_is_read_as_the_general_reader_reads_it(tmp_path: Path) -> None:
    tree = make_varied_tree(tmp_path / "tree")
    for format_ in ("gnu", "pax", "ustar", "v7"):
        some = (
            [] if format_ in ("gnu", "pax") else ["--exclude=./deep", "--exclude=./link-to-long", "--exclude=./private"]
        )
        command = ["tar", "-c", f"--format={format_}", *some, "-C", str(tree), "."]
        archive = subprocess.run(command, capture_output=True, check=False).stdout
        assert read(archive, 1 << 20) == read(archive, BLOCK)


@given(st.data())
@settings(max_examples=300)
def test_no_damage_makes_a_usual_header_another_entry(data: st.DataObject) -> None:
    entry = Entry(
        path="some/file.txt", kind="reg", mode=0o644, uid=1, gid=2, size=5, mtime_ns=1_700_000_000_000_000_001
    )
    archive = bytearray(header(entry, entry.path) + b"12345" + bytes(507) + END_OF_ARCHIVE)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, 1535))
        new = data.draw(st.binary(min_size=1, max_size=12))
        archive[start : start + len(new)] = new
    if data.draw(st.booleans()):  # else the checksums tell at once
        mend(archive, 0)
        mend(archive, 1024)
    assert read(bytes(archive), 1 << 20) == read(bytes(archive), BLOCK)


def mend(archive: bytearray, at: int) -> None:
    """Give the header at `at` its right checksum."""
    archive[at + 148 : at + 156] = b" " * 8
    archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + BLOCK])


def read(archive: bytes, buffer: int) -> object:
    """Return the entries and contents of an archive that comes in buffers of so many bytes, or what is wrong with it.

    In buffers of one block nothing is read but by the general reader.
    """
    pieces = (bytearray(archive[at : at + buffer]) for at in range(0, len(archive), buffer))
    found: list[tuple[Entry, bytes]] = []
    try:
        for entry, content in TarReader(Blocks((piece, len(piece)) for piece in pieces), "x"):
            assert not isinstance(content, OpenFile)
            whole = [content] if isinstance(content, (bytes, bytearray, memoryview)) else list(content)
            found.append((entry, b"".join(bytes(piece) for piece in whole)))
    except ShipwayError as error:
        return found, str(error)
    return found, ""
