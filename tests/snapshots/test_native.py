"""What only the native driver does: proving files unchanged without reading them, and views without mounting."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.snapshots import MTIME, entry, leftovers, listing, write_layer

from shipway.errors import Corrupt
from shipway.snapshots.native import NativeDriver

BASE = [
    entry("", "dir"),
    *((entry(f"f{number}", content=b"text %d" % number)) for number in range(20)),
    entry("big", content=bytes(1 << 16)),
]
CHAIN = ["base", "next"]


@pytest.fixture
def native(root: Path) -> Iterator[NativeDriver]:
    driver = NativeDriver(root)
    write_layer(driver, ["base"], BASE)
    yield driver
    driver.close()


def test_the_tree_is_the_directory_itself_while_it_is_active(native: NativeDriver, root: Path) -> None:
    native.prepare(CHAIN)
    with native.mounted(CHAIN, readonly=False) as path:
        assert path == root / "snapshots/next/fs"


def test_a_write_right_after_preparing_is_never_missed(native: NativeDriver) -> None:
    for turn in range(15):
        chain = ["base", f"turn{turn}"]
        native.prepare(chain)
        with native.mounted(chain, readonly=False) as path:
            for name in ("f1", "f2"):
                with open(path / name, "r+b") as file:
                    file.write(b"T")
                os.utime(path / name, ns=(MTIME, MTIME))
            with open(path / "big", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                memory[1 << 15] = 1
            os.utime(path / "big", ns=(MTIME, MTIME))
            os.utime(path, ns=(MTIME, MTIME))
        assert listing(native.changes(chain)) == [("", "dir"), ("big", "reg"), ("f1", "reg"), ("f2", "reg")]
        native.remove(chain[-1])


def test_a_file_put_in_the_place_of_another_is_never_taken_for_it(native: NativeDriver) -> None:
    native.prepare(CHAIN)
    with native.mounted(CHAIN, readonly=False) as path:
        (path / "f1").unlink()
        (path / "f1").write_bytes(b"text X")  # likely the same inode number, and the same size
        os.utime(path / "f1", ns=(MTIME, MTIME))
        (path / "f2").rename(path / "f3")
        (path / "f4").rename(path / "spare")
        (path / "f5").rename(path / "f4")
        (path / "spare").rename(path / "f5")
    assert listing(native.changes(CHAIN)) == [
        ("", "dir"),
        ("f1", "reg"),
        ("f2", "whiteout"),
        ("f3", "reg"),
        ("f4", "reg"),
        ("f5", "reg"),
    ]


def test_a_copied_store_proves_nothing_by_the_inodes_of_the_old_one(
    native: NativeDriver, root: Path, tmp_path: Path
) -> None:
    native.prepare(CHAIN)
    native.commit("next")
    shutil.copytree(root, tmp_path / "moved")
    file = tmp_path / "moved/snapshots/next/fs/f1"
    file.write_bytes(b"text X")
    os.utime(file, ns=(MTIME, MTIME))
    os.utime(file.parent, ns=(MTIME, MTIME))
    moved = NativeDriver(tmp_path / "moved")
    assert listing(moved.changes(CHAIN)) == [("", "dir"), ("f1", "reg")]
    moved.close()


def test_a_damaged_record_of_copies_is_corrupt(native: NativeDriver, root: Path) -> None:
    if not native._telling:
        pytest.skip("this file system's change times prove nothing")
    native.prepare(CHAIN)
    (root / "snapshots/next/origin").write_bytes(b"\x81\xc4")
    with pytest.raises(Corrupt, match="record of copied files"):
        native.changes(CHAIN)


def test_without_mounting_an_immutable_tree_is_shown_as_a_private_copy(native: NativeDriver, root: Path) -> None:
    native.can_mount = False
    with native.mounted(["base"], readonly=True) as one, native.mounted(["base"], readonly=True) as two:
        assert one != two
        (one / "f1").write_bytes(b"scribbled")
        assert (two / "f1").read_bytes() == b"text 1"
    assert leftovers(root) == []
    with native.mounted(["base"], readonly=True) as again:
        assert (again / "f1").read_bytes() == b"text 1"
    native.prepare(CHAIN)
    with native.mounted(CHAIN, readonly=True) as itself:
        assert itself == root / "snapshots/next/fs"
