"""Entries written into a directory: safely, exactly, and only there."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.slope import slope
from support.trees import MTIME, describe, make_varied_tree
from support.unprivileged import run_as_nobody

from shipway.errors import Invalid, NoSpace, SizeMismatch, Truncated, UnsafeEntry
from shipway.trees.copying import copy_entries
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Buffer, Entry, OpenFile
from shipway.trees.removal import empty_directory, remove_tree
from shipway.trees.writer import TreeWriter, read_umask


def file(path: str, size: int) -> Entry:
    """Return the entry of a regular file of ours."""
    return Entry(path=path, kind="reg", mode=0o644, uid=os.geteuid(), gid=os.getegid(), size=size, mtime_ns=MTIME)


def put(directory: Path, *entries: Entry) -> None:
    """Write entries without content."""
    with TreeWriter(directory) as writer:
        for entry in entries:
            writer.add(entry)
        writer.finish()


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    with DirectoryTree(source) as tree, TreeWriter(target) as writer:
        copy_entries(tree.entries(), tree, writer)
        writer.finish()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_copy_is_equal_to_the_last_detail_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    source = make_varied_tree(tmp_path / "source")
    before = os.umask(umask)
    try:
        assert read_umask() == umask
        copy(source, tmp_path / "copy")
        assert read_umask() == umask
    finally:
        os.umask(before)
    assert describe(tmp_path / "copy") == describe(source)


def test_a_copy_over_an_equal_tree_changes_nothing(tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    copy(source, tmp_path / "copy")
    with DirectoryTree(source) as tree, TreeWriter(tmp_path / "copy") as writer:
        copy_entries(tree.entries(), tree, writer)
        writer.finish()
    assert describe(tmp_path / "copy") == describe(source)


def pieces(*parts: Buffer | int) -> Iterator[Buffer | int]:
    yield from parts


def test_content_comes_whole_or_in_pieces_and_holes_stay_holes(tmp_path: Path) -> None:
    head, tail = b"head" * 1024, b"tail"
    size = 4096 + (4 << 20) + 4
    with TreeWriter(tmp_path) as writer:
        writer.add(file("bytes", 5), b"whole")
        writer.add(file("memory", 8), memoryview(bytearray(b"whole too")).cast("B")[:8])
        writer.add(file("wide", 16), memoryview(bytes(16)).cast("Q"))
        writer.add(file("pieces", size), pieces(head, 4 << 20, memoryview(tail)))
        writer.add(file("hole at the end", 1 << 20), pieces(b"", 1 << 20))
        writer.add(file("nothing", 0), pieces())
        writer.finish()
    assert (tmp_path / "bytes").read_bytes() == b"whole"
    assert (tmp_path / "memory").read_bytes() == b"whole to"
    assert (tmp_path / "wide").read_bytes() == bytes(16)
    assert (tmp_path / "pieces").read_bytes() == head + bytes(4 << 20) + tail
    assert (tmp_path / "pieces").stat().st_blocks * 512 <= 16384
    assert (tmp_path / "hole at the end").read_bytes() == bytes(1 << 20)
    assert (tmp_path / "hole at the end").stat().st_blocks == 0
    assert (tmp_path / "nothing").read_bytes() == b""


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3 << 20])
def test_an_open_file_is_copied_from_this_or_another_file_system(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    for source in (tmp_path / "source", Path(f"/dev/shm/shipway-test-{os.getpid()}")):
        source.write_bytes(data)
        fd = os.open(source, os.O_RDONLY)
        try:
            (tmp_path / "out").mkdir(exist_ok=True)
            with TreeWriter(tmp_path / "out") as writer:
                for number in range(2):  # the first finds out that cloning does not work, perhaps
                    os.lseek(fd, 0, os.SEEK_SET)
                    writer.add(file(f"copy{number}", size), OpenFile(fd))
                    assert (tmp_path / f"out/copy{number}").read_bytes() == data
                os.lseek(fd, 0, os.SEEK_SET)
                with pytest.raises(Truncated):
                    writer.add(file("wrong", size + 1), OpenFile(fd))
                if size:
                    os.lseek(fd, 0, os.SEEK_SET)
                    with pytest.raises(SizeMismatch):
                        writer.add(file("wrong", size - 1), OpenFile(fd))
                assert not (tmp_path / "out/wrong").exists()
        finally:
            os.close(fd)
            source.unlink()


def test_a_symlink_put_in_the_way_by_somebody_else_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    with TreeWriter(inside) as writer:
        writer.add(Entry(path="d/e", kind="dir", mode=0o755))
        (inside / "f").symlink_to(outside)
        with pytest.raises(UnsafeEntry):
            writer.add(file("f/x", 0))
        (inside / "g").symlink_to(outside / "g")
        writer.add(file("g", 0))
        writer.finish()
    assert (inside / "g").is_file()
    assert not (inside / "g").is_symlink()
    assert list(outside.iterdir()) == []


def test_a_directory_swapped_for_a_symlink_before_the_end_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    before = outside.stat()
    inside = tmp_path / "inside"
    inside.mkdir()
    with TreeWriter(inside) as writer:
        for number in range(200):  # more than stay open
            writer.add(Entry(path=f"d{number}/e", kind="dir", mode=0o700, mtime_ns=1))
        (inside / "d0/e").rmdir()
        (inside / "d0").rmdir()
        (inside / "d0").symlink_to(outside)
        (outside / "e").mkdir()
        with pytest.raises(UnsafeEntry):
            writer.finish()
    assert outside.stat().st_mode == before.st_mode
    assert (outside / "e").stat().st_mtime_ns != 1


def test_default_acls_and_setgid_of_the_target_do_not_leak_into_the_tree(tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    # user::rwx, user:12345:rwx, group::r-x, mask::rwx, other::r-x
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, 12345), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, permissions, who in entries
    )
    try:
        os.setxattr(target, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("no ACLs on this file system")
    target.chmod(0o2755)
    if os.geteuid() == 0:
        os.chown(target, 0, 4242)
        target.chmod(0o2755)
    with DirectoryTree(source) as tree, TreeWriter(target) as writer:
        copy_entries(tree.entries(), tree, writer)
        writer.finish()
    assert describe(target) == describe(source)


def test_attributes_that_the_file_system_refuses_are_invalid_and_named(tmp_path: Path) -> None:
    entry = Entry(path="file", kind="reg", xattrs={"user.big": bytes(1 << 17)})
    with pytest.raises((Invalid, NoSpace), match="file"):
        put(tmp_path, entry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_a_full_disk_is_no_space_and_leaves_no_half_file(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        with TreeWriter(small) as writer:
            writer.add(file("fits", 1000), bytes(1000))
            with pytest.raises(NoSpace, match="big"):
                writer.add(file("big", 1 << 20), b"x" * (1 << 20))
            assert os.listdir(small) == ["fits"]
            writer.add(file("fits too", 1000), bytes(1000))
    finally:
        subprocess.run(["umount", small], check=True)


AS_NOBODY = """
import os
import resource
from shipway.errors import Unavailable
from shipway.trees.entry import Entry
from shipway.trees.writer import TreeWriter
os.mkdir("out")
device = Entry(path="null", kind="char", dev=(1, 3), mode=0o666)
capability = {"security.capability": bytes(20), "trusted.x": b"1", "user.x": b"1"}
with TreeWriter("out", skip_devices=True) as writer:
    writer.add(device)
    writer.add(Entry(path="closed", kind="dir", mode=0o500, uid=0, gid=0))
    writer.add(Entry(path="closed/file", kind="reg", mode=0o4000, uid=0, gid=0, xattrs=capability))
    writer.finish()
    print(writer.skipped)
with TreeWriter("out") as writer:
    try:
        writer.add(device)
    except Unavailable as error:
        print(error)
print(oct(os.stat("out/closed").st_mode), oct(os.stat("out/closed/file").st_mode), os.listxattr("out/closed/file"))
from shipway.trees.removal import remove_tree
fd = os.open(".", os.O_RDONLY)
remove_tree(fd, "out")
print(os.path.exists("out"))
"""


@pytest.mark.root
def test_without_privileges_owners_and_devices_are_left_out(tmp_path: Path) -> None:
    assert run_as_nobody(["-c", AS_NOBODY], tmp_path).splitlines() == [
        "['null']",
        "null: making a device needs root",
        "0o40500 0o104000 ['user.x']",
        "False",
    ]


def test_removing_a_tree_removes_just_that_and_follows_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    doomed = make_varied_tree(tmp_path / "doomed")
    (doomed / "bin/out").symlink_to(outside)
    deep = doomed
    for _ in range(700):
        deep /= "d"
    deep.mkdir(parents=True)
    (doomed / "private").chmod(0o000)
    fd = os.open(tmp_path, os.O_RDONLY)
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 200, hard))  # fewer than it is deep
        remove_tree(fd, "doomed")
        remove_tree(fd, "doomed")
        (tmp_path / "link").symlink_to(outside)
        remove_tree(fd, "link")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        os.close(fd)
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]
    fd = os.open(tmp_path, os.O_RDONLY)
    empty_directory(fd)
    os.close(fd)
    assert os.listdir(tmp_path) == []


def test_an_entrys_mode_is_exact(tmp_path: Path) -> None:
    modes = (0o000, 0o644, 0o664, 0o777, 0o4755, 0o2711, 0o1777)
    put(
        tmp_path,
        *(Entry(path=f"f{mode:o}", kind="reg", mode=mode, uid=os.geteuid(), gid=os.getegid()) for mode in modes),
        *(Entry(path=f"d{mode:o}", kind="dir", mode=mode, uid=os.geteuid(), gid=os.getegid()) for mode in modes),
    )
    for mode in modes:
        assert stat.S_IMODE((tmp_path / f"f{mode:o}").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / f"d{mode:o}").stat().st_mode) == mode
        (tmp_path / f"d{mode:o}").chmod(0o700)


@pytest.mark.root
def test_files_put_into_a_setgid_directory_get_their_own_group(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    os.chown(tmp_path / "shared", 0, 4242)
    (tmp_path / "shared").chmod(0o2775)
    put(tmp_path, Entry(path="shared", kind="dir", mode=0o2775, gid=4242), file("shared/mine", 0))
    put(tmp_path, file("shared/too", 0), Entry(path="shared/d", kind="dir", mode=0o755))
    assert (tmp_path / "shared/mine").stat().st_gid == 0
    assert (tmp_path / "shared/too").stat().st_gid == 0
    assert (tmp_path / "shared/d").stat().st_gid == 0
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o2775
    assert stat.S_IMODE((tmp_path / "shared/d").stat().st_mode) == 0o755


@pytest.mark.slow
def test_what_was_written_is_remembered_on_little_memory_for_each_file(tmp_path: Path) -> None:
    def job(files: int) -> None:
        root = tmp_path / f"{files}"
        root.mkdir()
        with TreeWriter(root) as writer:
            for number in range(files):
                writer.add(Entry(path=f"directory-{number // 200}/file-{number}", kind="reg"))
            writer.finish()
        shutil.rmtree(root)

    assert slope(job, 2_000, 10_000) < 50


def test_of_what_was_written_nothing_is_removed_however_often_it_is_asked(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    put(
        tmp_path,
        Entry(path="a", kind="reg"),
        Entry(path="a", kind="whiteout"),
        Entry(path="b", kind="whiteout"),
        Entry(path="f", kind="reg"),
        Entry(path="f", kind="whiteout"),
        Entry(path="d", kind="dir", mode=0o755),
        Entry(path="d/g", kind="reg"),
        Entry(path="d", kind="reg"),
        Entry(path="d", kind="dir", mode=0o755),
        Entry(path="d/h", kind="reg"),
        Entry(path="", kind="opaque"),
    )
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"a", "f", "d", "d/h"}
