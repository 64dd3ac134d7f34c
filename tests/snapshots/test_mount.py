"""Mounting without mount(8): what a `Mount` says, each way to mount it, what is refused, and what is left."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from shipway.errors import Invalid, Locked, NotFound, Unavailable
from shipway.refs import Mount
from shipway.snapshots.mount import How, Overlay, escape, filesystem_type, is_mountpoint, mount_all, unmount

NEEDS_ROOT = pytest.mark.root
WAYS: tuple[How, ...] = ("auto", "fsopen", "mount")


def make_layers(base: Path, count: int) -> tuple[str, ...]:
    """Make layer directories, base first, each with a file of its own and a shared one."""
    layers = []
    for number in range(count):
        layer = base / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / f"only{number}").touch()
        (layer / "each").write_text(str(number))
        layers.append(str(layer))
    return tuple(layers)


def overlay(base: Path, count: int, *, writable: bool = False) -> Overlay:
    """Return an overlay of new layers under `base`."""
    lower = make_layers(base, count)
    if not writable:
        return Overlay(lower, readonly=True)
    for name in ("upper", "work"):
        (base / name).mkdir()
    return Overlay(lower, str(base / "upper"), str(base / "work"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "path", ["/plain", "/co:lon", "/com,ma", "/back\\slash", "/all\\:of,it\\,\\\\", "/new\nline", "/trailing\\"]
)
def test_an_overlay_survives_being_written_as_a_mount(path: str) -> None:
    one = Overlay((f"{path}/1", f"{path}/2"), f"{path}/u", f"{path}/w", ("userxattr", "index=off"), readonly=False)
    assert Overlay.parse(one.as_mount()) == one
    layers = Overlay((path, "/other", path), readonly=True)
    assert Overlay.parse(layers.as_mount()) == layers
    assert escape("/plain") == "/plain"


@NEEDS_ROOT
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ["plain", "a: b,c\\d", "x" * 250])
def test_an_overlay_is_shown_whatever_its_paths_are_called(tmp_path: Path, target: Path, how: How, name: str) -> None:
    one = overlay(tmp_path / name, 3, writable=True)
    mount_all([one.as_mount()], target, how=how)
    try:
        assert (target / "each").read_text() == "2"
        assert {"only0", "only1", "only2"} <= set(os.listdir(target))
        (target / "new").write_text("new")
        (target / "only0").unlink()
    finally:
        unmount(target)
    assert sorted(os.listdir(one.upper)) == ["new", "only0"]


@NEEDS_ROOT
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("count", [2, 128, 500])
def test_deep_chains_mount_in_the_right_order(tmp_path: Path, target: Path, how: How, count: int) -> None:
    one = overlay(tmp_path / "some quite long name for a directory of layers", count)
    mount_all([one.as_mount()], target, how=how)
    try:
        assert len(os.listdir(target)) == count + 1
        assert (target / "each").read_text() == str(count - 1)
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        unmount(target)


@NEEDS_ROOT
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ["plain", "a: b,c\\d"])
@pytest.mark.parametrize("count", [3, 100])
def test_names_may_be_relative_to_a_directory(tmp_path: Path, target: Path, how: How, name: str, count: int) -> None:
    base = tmp_path / name
    whole = overlay(base, count, writable=True)
    lower = tuple(os.path.relpath(one, base) for one in whole.lower)
    one = Overlay(lower, "upper", "work", directory=str(base))
    assert one.as_mount() == whole.as_mount()
    mount_all([one], target, how=how)
    try:
        assert (target / "each").read_text() == str(count - 1)
        (target / "new").touch()
    finally:
        unmount(target)
    assert os.listdir(base / "upper") == ["new"]
    nonsense = Overlay(lower, options=("nonsense=1",), readonly=True, directory=str(base))
    says = "Invalid argument" if how == "mount" else "Invalid argument.*nonsense"
    with pytest.raises(Unavailable, match=says):
        mount_all([nonsense], target, how=how)
    assert not is_mountpoint(target)


@NEEDS_ROOT
def test_mount8_takes_the_same_values(tmp_path: Path, target: Path) -> None:
    for number, name in enumerate(("plain", "a:b c")):
        one = overlay(tmp_path / name, 2, writable=True).as_mount()
        place = tmp_path / f"place{number}"
        place.mkdir()
        subprocess.run(["mount", "-t", one.type, "-o", ",".join(one.options), one.source, place], check=True)
        try:
            assert (place / "each").read_text() == "1"
        finally:
            unmount(place)
    bind = Mount("bind", str(tmp_path / "plain"), options=("bind", "ro"))
    subprocess.run(["mount", "-t", bind.type, "-o", ",".join(bind.options), bind.source, target], check=True)
    try:
        assert (target / "layer0").is_dir()
    finally:
        unmount(target)


@NEEDS_ROOT
def test_a_read_only_bind_mount_cannot_be_written_through(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    mount_all([Mount("bind", str(source), options=("bind", "ro"))], target)
    try:
        assert (target / "file").read_text() == "text"
        with pytest.raises(OSError, match="Read-only"):
            (target / "file").write_text("other")
        (source / "file").write_text("other")
    finally:
        unmount(target)
    mount_all([Mount("bind", str(source), options=("bind", "rw"))], target)
    try:
        (target / "file").write_text("through")
    finally:
        unmount(target)
    assert (source / "file").read_text() == "through"


@NEEDS_ROOT
def test_if_one_of_several_mounts_fails_none_stays(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    good = Mount("bind", str(source), options=("bind",))
    with pytest.raises(NotFound):
        mount_all([good, Mount("bind", str(tmp_path / "none"), "below", ("bind",))], target)
    assert not is_mountpoint(target)
    mount_all([good, Mount("bind", str(source), "below", ("bind", "ro"))], target)
    assert is_mountpoint(target)
    assert is_mountpoint(target / "below")
    assert (target / "below/below").is_dir()
    unmount(target / "below")
    unmount(target)
    assert not is_mountpoint(target)


def test_too_many_layers_are_refused_before_anything_is_mounted(target: Path) -> None:
    with pytest.raises(Invalid, match="flatten"):
        mount_all([Overlay(("/x",) * 501, readonly=True).as_mount()], target)
    with pytest.raises(Invalid, match="tmpfs"):
        mount_all([Mount("tmpfs", "tmpfs")], target)


@NEEDS_ROOT
@pytest.mark.parametrize("how", WAYS)
def test_refusals_are_typed_and_say_why(tmp_path: Path, target: Path, how: How) -> None:
    one = overlay(tmp_path / "one", 2, writable=True)
    missing = Overlay((*one.lower, str(tmp_path / "none")), readonly=True)
    with pytest.raises(NotFound, match="missing"):
        mount_all([missing.as_mount()], target, how=how)
    with pytest.raises(NotFound):
        mount_all([one.as_mount()], tmp_path / "no target", how=how)
    unknown = Overlay(one.lower, one.upper, one.work, ("nonsense=1",))
    with pytest.raises(Unavailable, match="Invalid argument"):
        mount_all([unknown.as_mount()], target, how=how)
    with pytest.raises(Unavailable):
        unmount(target)
    assert not is_mountpoint(target)


@NEEDS_ROOT
def test_unmounting_what_is_in_use_is_refused_unless_it_may_be_detached(tmp_path: Path, target: Path) -> None:
    mount_all([overlay(tmp_path / "one", 2).as_mount()], target)
    fd = os.open(target / "each", os.O_RDONLY)
    try:
        with pytest.raises(Locked, match="in use"):
            unmount(target)
        assert is_mountpoint(target)
        unmount(target, detach=True)
        assert not is_mountpoint(target)
        assert os.read(fd, 10) == b"1"
    finally:
        os.close(fd)


@NEEDS_ROOT
def test_the_working_directory_is_left_alone(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = overlay(Path("relative"), 3).as_mount()
    seen: list[str] = []

    def watch() -> None:
        while not stop.is_set():
            seen.append(os.getcwd())

    stop = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for how in WAYS:
            mount_all([one], "target", how=how)
            assert (target / "each").read_text() == "2"
            unmount("target")
    finally:
        stop.set()
        watcher.join()
    assert set(seen) == {str(tmp_path)}


def test_the_file_system_of_a_path_is_known() -> None:
    assert filesystem_type("/proc/self") == "proc"
    assert is_mountpoint("/proc")
    assert not is_mountpoint("/proc/self")
