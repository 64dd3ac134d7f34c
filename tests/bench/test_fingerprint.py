from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.fingerprint import NO_TIMES, WHOLE_SECONDS, fingerprint, same
from bench.model import WrongResult


def make(root: Path) -> Path:
    (root / "directory").mkdir(parents=True)
    (root / "directory" / "file").write_text("text")
    os.utime(root / "directory" / "file", ns=(1_500_000_000, 1_500_000_000))
    (root / "link").symlink_to("directory/file")
    return root


def test_two_equal_trees_have_one_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "a")) == fingerprint(make(tmp_path / "b"))


def touch(tree: Path, nanoseconds: int) -> None:
    os.utime(tree / "directory" / "file", ns=(nanoseconds, nanoseconds))


def relink(tree: Path, target: str) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to(target)


def rewrite(tree: Path, name: str, text: str) -> None:
    (tree / name).unlink()
    (tree / name).write_text(text)
    touch(tree, 1_500_000_000)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: rewrite(tree, "directory/file", "tex!"),
    "mode": lambda tree: (tree / "directory/file").chmod(0o600),
    "directory mode": lambda tree: (tree / "directory").chmod(0o700),
    "name": lambda tree: (tree / "link").rename(tree / "other"),
    "missing": lambda tree: (tree / "link").unlink(),
    "more": lambda tree: (tree / "empty").mkdir(),
    "target": lambda tree: relink(tree, "elsewhere"),
    "kind": lambda tree: rewrite(tree, "link", "directory/file"),
    "mtime": lambda tree: touch(tree, 1_500_000_001),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_gives_another(tmp_path: Path, change: str) -> None:
    expected, other = fingerprint(make(tmp_path / "a")), make(tmp_path / "b")
    CHANGES[change](other)
    with pytest.raises(WrongResult, match="is not the tree it should be"):
        same(expected, other)


def test_what_a_format_does_not_keep_is_left_out(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a"), make(tmp_path / "b")
    touch(other, 1_900_000_000)
    assert fingerprint(one, WHOLE_SECONDS) == fingerprint(other, WHOLE_SECONDS)
    touch(other, 2_100_000_000)
    assert fingerprint(one, WHOLE_SECONDS) != fingerprint(other, WHOLE_SECONDS)
    assert fingerprint(one, NO_TIMES) == fingerprint(other, NO_TIMES)
