"""A directory of this machine, read as a tree."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.trees import MTIME, describe, make_varied_tree

from shipway.errors import Invalid, NotFound
from shipway.trees.diff import walk
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import OpenFile, path_key
from shipway.trees.stack import OverlayTree


@pytest.fixture(params=[DirectoryTree, lambda root: OverlayTree([root])], ids=["directory", "stack of one"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DirectoryTree | OverlayTree]:
    with request.param(make_varied_tree(tmp_path / "tree")) as found:
        yield found


def test_entries_are_what_is_on_disk(tree: DirectoryTree | OverlayTree, tmp_path: Path) -> None:
    expected = describe(tmp_path / "tree")
    entries = {entry.path: entry for entry in tree.entries()}
    assert entries.keys() == expected.keys()
    for path, entry in entries.items():
        seen = expected[path]
        assert (entry.mode, entry.uid, entry.gid) == (stat.S_IMODE(seen.mode), seen.uid, seen.gid)
        assert (entry.mtime_ns, entry.link) == (seen.mtime_ns, seen.link)
        assert tuple(sorted(entry.xattrs.items())) == seen.xattrs
        if entry.dev != (0, 0):
            assert os.makedev(*entry.dev) == seen.dev
        assert tree.get(path) == entry
    assert {path for path, entry in entries.items() if entry.inode} == {"first", "third", "bin/second"}
    assert len({entry.inode for entry in entries.values() if entry.inode}) == 1


@pytest.mark.root
def test_files_of_two_file_systems_are_not_taken_for_names_of_one(tmp_path: Path) -> None:
    mounted = [tmp_path / "tree/b", tmp_path / "tree/c"]
    for root in (tmp_path / "tree/a", *mounted):
        root.mkdir(parents=True)
        if root in mounted:
            subprocess.run(["mount", "-t", "tmpfs", "none", str(root)], check=True)
        (root / "one").touch()
        os.link(root / "one", root / "other")
    try:
        with DirectoryTree(tmp_path / "tree") as tree:
            numbers = [entry.inode for entry in tree.entries() if not entry.is_dir]
    finally:
        for root in mounted:
            subprocess.run(["umount", str(root)], check=True)
    assert [numbers[0], numbers[2], numbers[4]] == [numbers[1], numbers[3], numbers[5]]
    assert len(set(numbers)) == len(mounted) + 1
    assert 0 not in numbers


def test_entries_come_in_walk_order_and_agree_with_names(tree: DirectoryTree | OverlayTree) -> None:
    paths = [entry.path for entry in tree.entries()]
    assert paths == sorted(paths, key=path_key)
    assert [entry.path for entry in walk(tree)] == paths


def test_contents_can_be_read_in_any_order(tree: DirectoryTree | OverlayTree) -> None:
    files = [entry for entry in tree.entries() if entry.is_file][::-1]
    for (entry, content), asked in zip(tree.read(files), files, strict=True):
        assert entry == asked
        assert isinstance(content, OpenFile)
        assert len(os.read(content.fd, entry.size + 1)) == entry.size


@pytest.mark.parametrize(
    "path", ["..", ".", "../tree/empty", "bin/..", "bin/../empty", "nul\0", "none", "empty/x", "bin/link/x"]
)
def test_what_is_not_a_name_in_the_tree_is_not_there(tree: DirectoryTree | OverlayTree, path: str) -> None:
    assert tree.get(path) is None
    assert tree.names(path) == []
    with pytest.raises(NotFound):
        tree.open(path)


@pytest.mark.parametrize("path", ["bin", "bin/link", "fifo", ""])
def test_only_regular_files_are_opened(tree: DirectoryTree | OverlayTree, path: str) -> None:
    with pytest.raises(Invalid, match="not a regular file"):
        tree.open(path)


def test_sockets_and_whiteouts_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "socket"))
        (tmp_path / "file").touch()
        if os.geteuid() == 0:
            os.mknod(tmp_path / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
        for tree in (DirectoryTree(tmp_path), OverlayTree([tmp_path])):
            with tree:
                assert tree.names("") == ["file"]
                assert [entry.path for entry in tree.entries()] == ["", "file"]
                assert tree.get("socket") is None


def test_reading_leaves_access_times_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    os.utime(file, ns=(5, MTIME))
    with DirectoryTree(tmp_path) as tree:
        fd = tree.open("file")
        assert os.read(fd, 2) == b"x"
        os.close(fd)
    assert file.stat().st_atime_ns == 5


def test_a_tree_can_be_given_as_an_open_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    with DirectoryTree(fd) as tree:
        assert tree.names("") == ["file"]
    assert os.listdir(fd) == ["file"]
    os.close(fd)


def test_a_tree_may_have_more_directories_than_a_process_may_have_files(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/file").touch()
    deep = tmp_path
    for _ in range(400):
        deep /= "d"
    deep.mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 120, hard))
    try:
        for tree in (DirectoryTree(tmp_path), OverlayTree([tmp_path])):
            with tree:
                assert sum(1 for _ in tree.entries()) == 1 + 300 + 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_no_directory_cannot_be_a_tree(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        DirectoryTree(tmp_path / "file")
