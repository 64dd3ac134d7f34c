"""Headers: whatever an entry says, its header says, and reading it says again."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.layers import collect

from shipway.errors import Invalid
from shipway.layers.headers import END_OF_ARCHIVE, archive_name, checksum, header
from shipway.trees.entry import Entry, Kind

NAMES = (
    st.binary(min_size=1, max_size=130)
    .filter(lambda raw: not {b"/", b"\0"} & {raw[i : i + 1] for i in range(len(raw))})
    .filter(lambda raw: raw not in (b".", b"..") and not raw.startswith(b".wh."))
    .map(os.fsdecode)
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
LINKS = st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: os.fsdecode(b"user." + raw)),
    st.binary(max_size=200),
    max_size=3,
)
NUMBERS = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 2))
TIMES = st.one_of(st.integers(-(10**18), 10**19), st.integers(0, 2**33).map(lambda seconds: seconds * 10**9))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind: Kind = draw(st.sampled_from(("dir", "reg", "symlink", "hardlink", "char", "block", "fifo")))
    device = st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1))
    return Entry(
        path=draw(PATHS),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(NUMBERS),
        gid=draw(NUMBERS),
        mtime_ns=draw(TIMES),
        link=draw(LINKS) if kind == "symlink" else draw(PATHS) if kind == "hardlink" else "",
        dev=draw(device) if kind in ("char", "block") else (0, 0),
        xattrs=draw(XATTRS),
    )


def archive(*members: Entry) -> bytes:
    return b"".join(header(entry, archive_name(entry)) for entry in members) + END_OF_ARCHIVE


@given(st.lists(entries(), max_size=4))
def test_any_entry_survives_its_header(members: list[Entry]) -> None:
    assert collect(archive(*members)).entries == members


@given(st.lists(PATHS, max_size=5), st.sampled_from(("whiteout", "opaque")))
def test_any_removal_survives_its_header(paths: list[str], kind: Kind) -> None:
    members = [Entry(path=path, kind=kind) for path in paths]
    assert collect(archive(*members)).entries == members


@given(entries())
def test_python_reads_any_header_the_same_way(entry: Entry) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(entry)), errors="surrogateescape") as opened:
        (member,) = opened.getmembers()
    assert member.name == entry.path
    assert member.linkname.rstrip("/") == entry.link.rstrip("/")
    assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
    assert (member.devmajor, member.devminor) == entry.dev


@given(st.binary(min_size=512, max_size=512))
def test_the_checksum_is_the_sum_of_the_bytes(block: bytes) -> None:
    assert checksum(block) == sum(block)
    assert checksum(b"\xff" * 512) == 512 * 255


@pytest.mark.parametrize("name", ["n" * 255, "d" * 150 + "/" + "n" * 100, "a/" * 128 + "n", "d/" * 40 + "\udcff" * 60])
def test_gnu_tar_reads_long_and_raw_names(tmp_path: Path, name: str) -> None:
    entry = Entry(path=name, kind="reg", mode=0o644, mtime_ns=1_234_567_890_123_456_789)
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive(entry), check=True)
    assert (tmp_path / name).stat().st_mtime_ns == entry.mtime_ns


def test_an_ordinary_entry_takes_one_block() -> None:
    entry = Entry(path="usr/bin/tool", kind="reg", mode=0o755, mtime_ns=1_700_000_000 * 10**9)
    assert len(header(entry, archive_name(entry))) == 512
    long = Entry(path="d" * 120 + "/" + "n" * 90, kind="reg")
    assert len(header(long, archive_name(long))) == 512


def test_sizes_beyond_octal_are_written() -> None:
    for size in (8**11 - 1, 8**11, 2**50):
        block = header(Entry(path="huge", kind="reg", size=size), "huge")
        assert tarfile.TarFile(fileobj=io.BytesIO(block + END_OF_ARCHIVE)).next().size == size  # type: ignore[union-attr]  # it is there


def test_what_no_archive_can_hold_is_refused() -> None:
    with pytest.raises(Invalid, match="device"):
        archive(Entry(path="dev", kind="char", dev=(2**22, 0)))
    with pytest.raises(Invalid, match="attributes"):
        archive(Entry(path="a", kind="reg", xattrs={f"user.{n}": bytes(60_000) for n in range(20)}))
