"""The comparison that the demo rests on sees every kind of difference."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.trees import make_varied_tree

from shipway.trees.compare import Difference, differences, look


def copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)
    return target


def test_a_faithful_copy_does_not_differ(tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    assert differences(look(source), look(copy(source, tmp_path / "copy"))) == []


def keep_times(root: Path, change: Callable[[], object]) -> None:
    before = root.stat()
    change()
    os.utime(root, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path: Path) -> None:
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def retarget(path: Path) -> None:
    status = path.lstat()
    path.unlink()
    path.symlink_to("elsewhere")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def unlink_from_others(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: rewrite(root / "plain"),
    "size": lambda root: os.truncate(root / "plain", 3),
    "mode": lambda root: (root / "plain").chmod(0o4711),
    "mtime_ns": lambda root: os.utime(root / "plain", ns=(0, 1)),
    "target": lambda root: retarget(root / "link"),
    "xattrs": lambda root: os.setxattr(root / "plain", "user.note", b"other"),
    "names": lambda root: unlink_from_others(root / "one"),
    "missing": lambda root: (root / "plain").unlink(),
    "unexpected": lambda root: (root / "new").touch(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_and_named(tmp_path: Path, what: str) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "plain").write_bytes(b"content")
    (root / "link").symlink_to("plain")
    (root / "one").write_bytes(b"linked")
    os.link(root / "one", root / "two")
    before = look(root)
    keep_times(root, lambda: CHANGES[what](root))
    assert what in {difference.what for difference in differences(before, look(root))}


def test_a_file_in_place_of_a_directory_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "thing").mkdir(parents=True)
    before = look(root)
    (root / "thing").rmdir()
    (root / "thing").touch()
    assert "type" in {difference.what for difference in differences(before, look(root))}


@pytest.mark.root
def test_owners_and_devices_matter_to_root_and_not_to_others(tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    before = look(source)
    (source / "null").unlink()
    os.chown(source / "big", 5, 6)
    after = look(source)
    after[""] = before[""]
    assert {(one.path, one.what) for one in differences(before, after)} == {("null", "missing"), ("big", "owner")}
    assert differences(before, after, owners=False) == []


def test_a_difference_reads_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    before = look(tmp_path)
    (tmp_path / "file").chmod(0o640)
    assert [str(one) for one in differences(before, look(tmp_path))] == ["/file: mode: 0600 expected, 0640 found"]
    assert str(Difference("file", "missing")) == "/file: missing"
