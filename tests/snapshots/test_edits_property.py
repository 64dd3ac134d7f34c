"""Whatever is done in a writable mount, both drivers find the same changes, and these make the tree anew."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import MTIME, copy_changes, entry, shown, write_layer
from support.trees import describe

from shipway.snapshots.native import NativeDriver
from shipway.snapshots.overlay import OverlayDriver
from shipway.trees.diff import changes

pytestmark = pytest.mark.root

BASE = [
    entry("", "dir"),
    *((entry(path, "dir")) for path in ("a", "a/a", "b")),
    *((entry(path, content=path.encode())) for path in ("a/a/a", "a/a/b", "a/b", "b/a", "b/b", "c")),
    entry("b/c", "symlink", link="a"),
]
CHAIN = ["base", "next"]
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where flushing costs nothing."""
PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


def _write(root: Path, path: str, other: str) -> None:
    (root / path).write_text(other, newline="")


def _remove(root: Path, path: str, _other: str) -> None:
    with suppress(NotADirectoryError):
        shutil.rmtree(root / path)
        return
    (root / path).unlink()


def _move(root: Path, path: str, other: str) -> None:
    if (root / path).is_dir() and not (root / path).is_symlink():
        raise NotADirectoryError(path)  # overlayfs leaves moving a lower directory to the caller
    (root / path).rename(root / other)


EDITS: dict[str, Callable[[Path, str, str], object]] = {
    "write": _write,
    "remove": _remove,
    "move": _move,
    "mkdir": lambda root, path, _other: (root / path).mkdir(),
    "symlink": lambda root, path, other: (root / path).symlink_to(other),
    "chmod": lambda root, path, _other: os.chmod(root / path, 0o700),
    "xattr": lambda root, path, other: os.setxattr(root / path, "user.x", other.encode()),
    "again": lambda root, path, _other: (root / path).write_bytes((root / path).read_bytes()),
}


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(EDITS)), PATHS, PATHS), max_size=14))
def test_both_drivers_see_the_same_edits(edits: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as base:
        overlay, native = OverlayDriver(Path(base) / "overlay"), NativeDriver(Path(base) / "native")
        found, trees = [], []
        for driver in (overlay, native):
            write_layer(driver, ["base"], BASE)
            driver.prepare(CHAIN)
            with driver.mounted(CHAIN, readonly=False) as path:
                for edit, one, other in edits:
                    with suppress(OSError):
                        EDITS[edit](path, one, other)
                _settle(path)
                trees.append(describe(path))
            driver.commit("next")
            found.append(list(driver.changes(CHAIN)))
            with driver.tree(["base"]) as lower, driver.tree(CHAIN) as upper:
                assert list(changes(lower, upper)) == found[-1]
        assert trees[0] == trees[1]
        assert found[0] == found[1]
        copy_changes(native, CHAIN, overlay, ["base", "copied"])
        copy_changes(overlay, CHAIN, native, ["base", "copied"])
        assert shown(overlay, ["base", "copied"]) == shown(native, ["base", "copied"]) == trees[0]
        overlay.close()
        native.close()


def _settle(root: Path) -> None:
    """Give all that an edit has touched, and only that, a time that does not depend on the clock."""
    for base, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files, "."):
            place = os.path.join(base, name)
            if os.lstat(place).st_mtime_ns > MTIME:
                os.utime(place, ns=(1, 1), follow_symlinks=False)
