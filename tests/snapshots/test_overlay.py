"""What only the overlay driver does: one mount for all users of a writable layer, and tidying up after others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.snapshots import entry, leftovers, write_layer

from shipway.errors import Invalid, Locked
from shipway.snapshots.mount import is_mountpoint, mount_all, unmount
from shipway.snapshots.overlay import OverlayDriver

pytestmark = pytest.mark.root
BASE = [entry("", "dir"), entry("file", content=b"base"), entry("d", "dir"), entry("d/x", content=b"x")]


@pytest.fixture
def overlay(root: Path) -> OverlayDriver:
    driver = OverlayDriver(root)
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    return driver


def test_a_layer_directory_holds_only_what_the_layer_changes(overlay: OverlayDriver, root: Path) -> None:
    write_layer(overlay, ["base", "more"], [entry("d/y", content=b"y"), entry("file", "whiteout")])
    files = root / "snapshots/more/fs"
    assert sorted(str(path.relative_to(files)) for path in files.rglob("*")) == ["d", "d/y", "file"]
    assert files.joinpath("file").is_char_device()
    assert files.joinpath("file").stat().st_rdev == 0


def test_all_users_of_an_active_snapshot_share_one_mount(overlay: OverlayDriver) -> None:
    with ExitStack() as stack:
        paths = {stack.enter_context(overlay.mounted(["base", "next"], readonly=False)) for _ in range(4)}
        assert len(paths) == 1
    assert not is_mountpoint(paths.pop())


def test_a_writable_mount_still_in_use_is_detached_and_reported(overlay: OverlayDriver, root: Path) -> None:
    fd = -1
    with pytest.raises(Locked, match="still uses"), overlay.mounted(["base", "next"], readonly=False) as path:
        fd = os.open(path / "file", os.O_RDONLY)
    os.close(fd)
    assert leftovers(root) == []


def test_an_error_in_the_block_is_not_hidden_by_a_mount_in_use(overlay: OverlayDriver, root: Path) -> None:
    fds = []

    def fail_with_an_open_file() -> None:
        with overlay.mounted(["base", "next"], readonly=False) as path:
            fds.append(os.open(path / "file", os.O_RDONLY))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_an_open_file()
    os.close(fds[0])
    assert leftovers(root) == []


def test_a_read_only_mount_still_in_use_just_disappears(overlay: OverlayDriver, root: Path) -> None:
    overlay.commit("next")
    with overlay.mounted(["base", "next"], readonly=True) as path:
        fd = os.open(path / "file", os.O_RDONLY)
    assert os.read(fd, 10) == b"base"
    os.close(fd)
    assert leftovers(root) == []


def test_an_active_snapshot_can_be_mounted_again_and_again(overlay: OverlayDriver, tmp_path: Path) -> None:
    for number in range(3):
        with overlay.mounted(["base", "next"], readonly=False) as path:
            (path / f"new{number}").touch()
    target = tmp_path / "target"
    target.mkdir()
    mount_all(overlay.mounts(["base", "next"], readonly=False), target)
    try:
        assert (target / "new2").exists()
    finally:
        unmount(target)
    with overlay.tree(["base", "next"]) as tree:
        assert tree.names("") == ["d", "file", "new0", "new1", "new2"]


KILLED = """
import os, signal, sys
from pathlib import Path
from shipway.snapshots.overlay import OverlayDriver
driver = OverlayDriver(Path(sys.argv[1]))
with driver.mounted(["base", "next"], readonly=False) as path, driver.mounted(["base"], readonly=True) as other:
    (path / "written").write_text("before the end")
    print(path, other, sep="|", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_mounted_is_taken_away_by_the_next_driver(
    overlay: OverlayDriver, root: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, root], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    places = [Path(place) for place in done.stdout.strip().split("|")]
    assert all(is_mountpoint(place) for place in places)
    with overlay.mounted(["base"], readonly=True) as mine:
        OverlayDriver(root).close()
        assert not any(is_mountpoint(place) for place in places)
        assert not any(place.exists() for place in places)
        assert (mine / "file").read_bytes() == b"base"
    with overlay.mounted(["base", "next"], readonly=False) as path:
        assert (path / "written").read_text() == "before the end"
    assert leftovers(root) == []


def test_closing_takes_away_what_is_still_mounted(overlay: OverlayDriver, root: Path) -> None:
    with overlay.mounted(["base"], readonly=True) as path:
        overlay.close()
        assert not path.exists()
    assert leftovers(root) == []
    assert list((root / "mounts").iterdir()) == []


def test_a_mount_that_somebody_else_took_away_is_no_error(overlay: OverlayDriver, root: Path) -> None:
    with overlay.mounted(["base"], readonly=True) as path:
        unmount(path)
    assert leftovers(root) == []


def test_more_layers_than_the_kernel_takes_are_refused(overlay: OverlayDriver) -> None:
    with pytest.raises(Invalid, match="flatten"), overlay.mounted(["base"] * 501, readonly=True):
        pass
