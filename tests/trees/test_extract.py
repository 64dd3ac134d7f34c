"""Copying out of a tree: what lands, what is replaced, and that failures leave the destination as it was."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.trees import describe, make_varied_tree

from shipway.errors import Corrupt, Invalid, NotFound
from shipway.progress import Progress
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Content, Entry
from shipway.trees.extract import extract


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    return make_varied_tree(tmp_path / "varied")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A destination with things in it already."""
    path = tmp_path / "out"
    (path / "bin").mkdir(parents=True)
    (path / "bin/own").write_bytes(b"was here")
    (path / "bin/tool").write_bytes(b"an older tool")
    os.link(path / "bin/tool", path / "bin/tool-too")
    (path / "bin").chmod(0o711)
    os.setxattr(path / "bin", "user.old", b"1")
    os.utime(path / "bin", ns=(5, 5))
    os.utime(path, ns=(7, 7))
    return path


class Breaking:
    """A tree whose content breaks after so many files."""

    def __init__(self, tree: DirectoryTree, after: int, error: BaseException) -> None:
        self.get, self.names, self._tree = tree.get, tree.names, tree
        self._after, self._error = after, error

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Content]]:
        for number, item in enumerate(self._tree.read(entries)):
            if number == self._after:
                raise self._error
            yield item


def test_everything_extracts_to_an_identical_tree(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        done = extract(tree, tmp_path / "new/copy")
    seen = describe(varied)
    assert describe(tmp_path / "new/copy") == seen
    assert done.entries == len(seen) - 1
    assert done.skipped == ()
    unique = {value.names: path for path, value in seen.items() if stat.S_ISREG(value.mode)}
    assert done.size == sum((varied / path).stat().st_size for path in unique.values())


def test_a_created_destination_takes_the_roots_metadata_and_an_existing_one_keeps_its_own(
    varied: Path, tmp_path: Path
) -> None:
    varied.chmod(0o750)
    there = tmp_path / "there"
    there.mkdir(mode=0o705)
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "made")
        extract(tree, there)
        extract(tree, tmp_path / "file-only", ["empty"])
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o750
    assert (tmp_path / "made").stat().st_mtime_ns == varied.stat().st_mtime_ns
    assert stat.S_IMODE(there.stat().st_mode) == 0o705
    assert (tmp_path / "file-only").stat().st_mtime_ns != varied.stat().st_mtime_ns


def test_holes_stay_holes(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "copy", ["sparse"])
    assert (tmp_path / "copy/sparse").stat().st_blocks * 512 < 1 << 20


def test_one_file_lands_alone_under_its_base_name(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        done = extract(tree, tmp_path / "copy", ["/bin/tool"])
    assert os.listdir(tmp_path / "copy") == ["tool"]
    assert (done.entries, done.size) == (1, (varied / "bin/tool").stat().st_size)
    assert describe(tmp_path / "copy")["tool"] == replace(describe(varied)["bin/tool"], names=("tool",))


def test_with_parents_the_directories_above_look_as_they_do_in_the_tree(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "copy", ["private/secret"], parents=True)
    copied, source = describe(tmp_path / "copy"), describe(varied)
    assert set(copied) == {"", "private", "private/secret"}
    assert copied["private"] == source["private"]
    assert copied["private/secret"] == source["private/secret"]


def test_hard_links_among_what_is_extracted_are_kept(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "copy", ["first", "third", "bin"])
    assert describe(tmp_path / "copy")["first"].names == ("bin/second", "first", "third")


def test_a_file_that_lands_twice_is_written_twice(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "copy", ["private", "private/."])
    assert (tmp_path / "copy/secret").read_bytes() == (tmp_path / "copy/private/secret").read_bytes() == b"secret"


def test_directories_merge_and_files_are_replaced(varied: Path, out: Path) -> None:
    before = os.stat(out / "bin/tool-too").st_ino
    with DirectoryTree(varied) as tree:
        extract(tree, out, ["bin"])
    copied, source = describe(out), describe(varied)
    assert set(os.listdir(out / "bin")) == {*os.listdir(varied / "bin"), "own", "tool-too"}
    assert (out / "bin/own").read_bytes() == b"was here"
    assert copied["bin/tool"] == source["bin/tool"]
    assert copied["bin"] == source["bin"]
    assert (out / "bin/tool-too").read_bytes() == b"an older tool"
    assert os.stat(out / "bin/tool-too").st_ino == before
    assert set(os.listdir(out)) == {"bin"}


def test_extracting_again_changes_nothing(varied: Path, tmp_path: Path) -> None:
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "copy")
        extract(tree, tmp_path / "copy")
    copied, source = describe(tmp_path / "copy"), describe(varied)
    del copied[""], source[""]  # the destination was there: its time is that of the last change
    assert copied == source


def test_a_symlink_in_the_way_is_replaced_and_never_written_through(varied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tool").symlink_to(outside)
    with DirectoryTree(varied) as tree:
        extract(tree, copy, ["bin/tool"])
    assert outside.read_bytes() == b"untouched"
    assert not (copy / "tool").is_symlink()


def test_a_directory_does_not_go_through_a_symlink_to_a_directory(varied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "bin").symlink_to(outside)
    with DirectoryTree(varied) as tree, pytest.raises(Invalid, match="copy/bin: is not a directory"):
        extract(tree, copy, ["bin"])
    assert os.listdir(outside) == []


def test_the_destination_itself_may_be_a_symlink(varied: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with DirectoryTree(varied) as tree:
        extract(tree, tmp_path / "link", ["empty"])
    assert os.listdir(tmp_path / "real") == ["empty"]


@pytest.mark.parametrize("blocker", ["directory", "file"])
def test_a_directory_and_something_else_on_one_name_are_refused(varied: Path, out: Path, blocker: str) -> None:
    if blocker == "directory":
        (out / "setuid/x").mkdir(parents=True)
    else:
        (out / "private").write_bytes(b"a file")
    os.utime(out, ns=(7, 7))
    before = describe(out)
    with DirectoryTree(varied) as tree, pytest.raises(Invalid, match="would take its place"):
        extract(tree, out)
    assert describe(out) == before


def test_a_destination_that_is_a_file_is_invalid(varied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with DirectoryTree(varied) as tree:
        for path in (tmp_path / "file", tmp_path / "file/below"):
            with pytest.raises(Invalid, match="not a directory"):
                extract(tree, path)
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_source_that_is_missing_writes_nothing(varied: Path, tmp_path: Path, out: Path) -> None:
    before = describe(out)
    with DirectoryTree(varied) as tree:
        with pytest.raises(NotFound, match="bin/absent"):
            extract(tree, tmp_path / "new/copy", ["bin/tool", "bin/absent"])
        with pytest.raises(NotFound, match="nothing matches"):
            extract(tree, out, ["bin/*.dll"], wildcard=True)
    assert not (tmp_path / "new").exists()
    assert describe(out) == before


def test_sources_never_leave_the_tree(varied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    (varied / "escape").symlink_to("../secret")
    with DirectoryTree(varied) as tree:
        for source in ("../secret", "/../secret", "bin/../../secret", "escape/"):
            with pytest.raises(NotFound):
                extract(tree, tmp_path / "copy", [source])
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("error", [Corrupt("broken"), KeyboardInterrupt(), OSError(5, "broken")])
@pytest.mark.parametrize("after", [0, 4])
def test_content_that_breaks_leaves_the_destination_as_it_was(
    varied: Path, out: Path, tmp_path: Path, error: BaseException, after: int
) -> None:
    before = describe(out)
    with DirectoryTree(varied) as tree:
        with pytest.raises(type(error)):
            extract(Breaking(tree, after, error), out)
        with pytest.raises(type(error)):
            extract(Breaking(tree, after, error), tmp_path / "a/b/c")
    assert describe(out) == before
    assert not (tmp_path / "a").exists()


def test_a_callback_that_raises_stops_the_work_and_leaves_nothing(varied: Path, out: Path) -> None:
    before = describe(out)
    calls: list[Progress] = []

    def stop(progress: Progress) -> None:
        calls.append(progress)
        if progress.done:
            raise KeyboardInterrupt

    with DirectoryTree(varied) as tree, pytest.raises(KeyboardInterrupt):
        extract(tree, out, progress=stop)
    assert describe(out) == before
    assert calls[-1].done < (calls[-1].total or 0)


def test_progress_ends_at_the_total(varied: Path, tmp_path: Path) -> None:
    calls: list[Progress] = []
    with DirectoryTree(varied) as tree:
        done = extract(tree, tmp_path / "copy", progress=calls.append)
    assert {(call.task, call.item, call.total) for call in calls} == {("extract", str(tmp_path / "copy"), done.size)}
    assert [call.done for call in calls] == sorted(call.done for call in calls)
    assert calls[-1].done == done.size


@pytest.mark.root
def test_what_had_been_moved_is_taken_back_when_a_later_move_fails(varied: Path, out: Path) -> None:
    """A mount point inside the destination cannot be replaced, which shows only when everything is moving."""
    (out / "third").write_bytes(b"a mounted file")
    os.utime(out, ns=(7, 7))
    script = f"mount --bind {out / 'third'} {out / 'third'} && exec {sys.executable} -c '{_TAKE_BACK}' {varied} {out}"
    before = describe(out)
    ran = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "mount:" in ran.stderr:
        pytest.skip("mounting is not allowed here")
    assert ran.stdout.startswith("Unavailable"), ran.stderr
    assert describe(out) == before


_TAKE_BACK = """
import sys
from shipway.trees.directory import DirectoryTree
from shipway.trees.extract import extract
try:
    extract(DirectoryTree(sys.argv[1]), sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""

_AS_NOBODY = """
import os, sys
from shipway.trees.directory import DirectoryTree
from shipway.trees.extract import extract
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
done = extract(DirectoryTree(sys.argv[1]), sys.argv[2])
print(*done.skipped)
"""


def test_without_privileges_devices_are_left_out_and_read_only_directories_land(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "closed/deeper").mkdir(parents=True)
    (source / "closed/deeper/file").write_bytes(b"x")
    (source / "closed/deeper").chmod(0o500 if os.geteuid() else 0o555)
    (source / "closed").chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.mknod(source / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.link(source / "device", source / "same-device")
    out = tmp_path / "out"
    (out / "closed").mkdir(parents=True)
    if root:
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o055)
        os.chown(out, 65534, 65534)
        os.chown(out / "closed", 65534, 65534)
        ran = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, source, out], capture_output=True, text=True, check=False
        )
        assert ran.stdout.split() == ["device", "same-device"], ran.stderr
    else:
        with DirectoryTree(source) as tree:
            extract(tree, out)
    assert (out / "closed/deeper/file").read_bytes() == b"x"
    for name in ("closed", "closed/deeper"):
        assert (out / name).stat().st_mode == (source / name).stat().st_mode
        assert (out / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns
    (out / "closed/deeper").chmod(0o755)
    (out / "closed").chmod(0o755)
    (source / "closed").chmod(0o755)
    (source / "closed/deeper").chmod(0o755)
