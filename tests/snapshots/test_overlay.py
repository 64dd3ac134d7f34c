"""What only the overlay driver does: one mount for all users of a writable layer, and tidying up after others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.programs import need
from support.snapshots import entry, leftovers, write_layer

from shipway.errors import Invalid, Locked, NotFound
from shipway.snapshots.mount import Overlay, is_mountpoint, mount_all, unmount
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


def deep(driver: OverlayDriver, count: int) -> list[str]:
    """Make a chain of so many layers."""
    chain: list[str] = []
    for number in range(count):
        chain.append(f"layer{number}")
        write_layer(driver, chain, [entry(f"file{number}", content=b"%d" % number)])
    return chain


def lose_snapshot(path: Path) -> None:
    shutil.rmtree(path)


def lose_files(path: Path) -> None:
    shutil.rmtree(path / "fs")


def replace_files(path: Path) -> None:
    shutil.rmtree(path / "fs")
    (path / "fs").touch()


@pytest.mark.parametrize("count", [1, 3, 70])
@pytest.mark.parametrize("damage", [lose_snapshot, lose_files, replace_files])
def test_a_mount_names_the_layer_that_is_missing(
    overlay: OverlayDriver, root: Path, count: int, damage: Callable[[Path], None]
) -> None:
    chain = deep(overlay, count)
    lost = chain[count // 2]
    damage(root / "snapshots" / lost)
    with pytest.raises(NotFound) as shown, overlay.mounted(chain, readonly=True, settled=True):
        pass
    with pytest.raises(NotFound) as told:
        overlay.mounts(chain, readonly=True, settled=True)
    assert shown.value.where == told.value.where == lost
    assert leftovers(root) == []


def test_an_active_snapshot_names_the_layer_below_it_that_is_missing(overlay: OverlayDriver, root: Path) -> None:
    lose_snapshot(root / "snapshots/base")
    for readonly in (False, True):
        with pytest.raises(NotFound) as caught, overlay.mounted(["base", "next"], readonly=readonly):
            pass
        assert caught.value.where == "base"
    assert leftovers(root) == []


def test_what_stands_over_others_is_mounted_right_on_the_directories_of_its_whiteouts(
    overlay: OverlayDriver, root: Path
) -> None:
    chain = ["base", "less"]
    write_layer(overlay, chain, [entry("d/x", "whiteout")])
    write_layer(overlay, ["other"], [entry("other", content=b"other")])
    assert overlay.separate(chain, overlay.changes(chain))
    home = root / "snapshots"
    assert (home / "less/under/d").is_dir()
    (moved,) = overlay.mounts(["other", "less"], readonly=True, moved={"less"})
    assert Overlay.parse(moved).lower == tuple(f"{home}/{name}" for name in ("other/fs", "less/under", "less/fs"))
    (in_place,) = overlay.mounts(chain, readonly=True)
    assert Overlay.parse(in_place).lower == tuple(f"{home}/{name}" for name in ("base/fs", "less/fs"))
    with overlay.mounted(["other", "less"], readonly=True, moved={"less"}) as path:
        assert sorted(os.listdir(path)) == ["d", "other"]
        assert os.listdir(path / "d") == []


MOUNTS = """
import os, sys
from pathlib import Path
from shipway.snapshots.overlay import OverlayDriver
driver = OverlayDriver(Path(sys.argv[1]))
chain = sys.argv[2:]
for count in (2, 3, 20, 70, 80):
    for time in range(2):  # the first may import, or open, what the next has
        os.access(f"/begin {count} ", os.F_OK)
        with driver.mounted(chain[:count], readonly=True, settled=True):
            pass
        os.access("/end", os.F_OK)
driver.close()
"""


def test_a_layer_more_takes_one_system_call_and_among_many_none(
    overlay: OverlayDriver, root: Path, tmp_path: Path
) -> None:
    chain = deep(overlay, 80)
    log = tmp_path / "calls"
    traced = "trace=%file,fsopen,fsconfig,fsmount,move_mount,open_tree,mount_setattr"
    strace = [need("strace", "strace"), "-f", "-qq", "-e", traced, "-o", str(log)]
    subprocess.run([*strace, sys.executable, "-c", MOUNTS, str(root), *chain], check=True)
    calls: dict[int, int] = {}
    for part in log.read_text(errors="replace").split('"/begin ')[1:]:
        within = part.partition('"/end"')[0].splitlines()[1:-1]
        calls[int(part.split()[0])] = sum("resumed>" not in line for line in within)
    assert calls[3] - calls[2] == 1
    assert calls[20] - calls[3] == 17
    assert calls[70] == calls[80] < calls[20]
