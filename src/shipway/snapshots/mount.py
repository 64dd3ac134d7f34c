"""Mounting what a list of `Mount` values says, without mount(8)."""

from __future__ import annotations

import _thread
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shipway.errors import Invalid, Locked, NotFound, ShipwayError, Unavailable
from shipway.refs import Mount
from shipway.snapshots import syscalls

MAX_LAYERS = 500
"""The kernel's limit on lower layers (OVL_MAX_STACK)."""

_MAX_VALUE = 255
_MAX_DATA = 4095
_PLENTY = 3500  # bytes of names that leave room for the other options
_MANY = 32
"""From so many layers on, a thread and one call take less than a call for each layer."""
_SPECIAL = re.compile(r"([\\:,])")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_OCTAL = re.compile(rb"\\([0-7]{3})")
# What a remount keeps of a bind mount, as statvfs(3) shows it and as mount(2) takes it.
_KEPT_FLAGS = ((os.ST_NOSUID, 2), (os.ST_NODEV, 4), (os.ST_NOEXEC, 8), (os.ST_NOATIME, 1 << 10))

How = Literal["auto", "fsopen", "mount"]
"""Which calls to mount an overlay with: `fsopen` needs Linux 6.5 for its `lowerdir+`, `mount` works on all."""


def escape(path: str) -> str:
    """Return a path as it stands in the options of an overlay."""
    return _SPECIAL.sub(r"\\\1", path)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay's directories, the base first among `lower`, and its other options.

    Their names may be relative to `directory`.
    """

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()
    readonly: bool = False
    directory: str = ""

    @classmethod
    def parse(cls, mount: Mount) -> Overlay:
        """Read the options of a `Mount` of type `overlay`."""
        lower: tuple[str, ...] = ()
        upper = work = ""
        others = []
        for option in mount.options:
            key, _, value = option.partition("=")
            if key == "lowerdir":
                lower = tuple(_unescape(one) for one in reversed(re.findall(r"((?:[^\\:]|\\.)+)", value, re.DOTALL)))
            elif key == "upperdir":
                upper = _unescape(value)
            elif key == "workdir":
                work = _unescape(value)
            elif option not in ("ro", "rw"):
                others.append(option)
        return cls(lower, upper, work, tuple(others), "ro" in mount.options)

    def as_mount(self) -> Mount:
        """Return the `Mount` for it, its paths escaped for mount(8)."""
        whole = self.from_anywhere()
        options = ["lowerdir=" + ":".join(escape(one) for one in reversed(whole.lower))]
        if self.upper:
            options += [f"upperdir={escape(whole.upper)}", f"workdir={escape(whole.work)}"]
        return Mount("overlay", "overlay", options=(*options, *self.options, "ro" if self.readonly else "rw"))

    def from_anywhere(self) -> Overlay:
        """Return the overlay with names that are not relative to `directory`."""
        if not self.directory:
            return self
        lower = tuple(_joined(self.directory, one) for one in self.lower)
        upper, work = (one and _joined(self.directory, one) for one in (self.upper, self.work))
        return replace(self, lower=lower, upper=upper, work=work, directory="")


def _joined(directory: str, name: str) -> str:
    return name if name.startswith("/") else f"{directory}/{name}"


def mount_all(mounts: Sequence[Mount | Overlay], target: str | Path, *, how: How = "auto") -> None:
    """Mount all of `mounts` at the directory `target`; if one fails, none stays.

    Raises `Invalid` for more than 500 layers, `NotFound` for a missing
    directory and `Unavailable` when the kernel refuses.
    """
    done: list[str] = []
    try:
        for one in mounts:
            place = os.path.join(target, one.target) if isinstance(one, Mount) and one.target else str(target)
            _mount_one(one, place, how)
            done.append(place)
    except BaseException:
        for place in reversed(done):
            with suppress(OSError):
                syscalls.umount(place, syscalls.MNT_DETACH)
        raise


def unmount(target: str | Path, *, detach: bool = False) -> None:
    """Take away the topmost mount at `target`.

    Raises `Locked` if it is in use; with `detach` it disappears at once in any case, and
    the kernel lets go of it when its last user does.
    """
    try:
        syscalls.umount(target, syscalls.MNT_DETACH if detach else 0)
    except OSError as error:
        raise _refused(error, str(target), "unmount") from error


def is_mountpoint(path: str | Path) -> bool:
    """Whether something is mounted right at `path`, bind mounts included."""
    resolved = os.path.realpath(os.fsencode(path))
    return any(point == resolved for point, _ in _mount_table())


def filesystem_type(path: str | Path) -> str:
    """Return the type of the file system that holds `path`: `ext4`, `tmpfs`, …; empty if unknown."""
    resolved = os.path.realpath(os.fsencode(path))
    best, found = b"", ""
    for point, kind in _mount_table():
        inside = resolved == point or resolved.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= len(best):
            best, found = point, kind
    return found


def _mount_table() -> Iterator[tuple[bytes, str]]:
    """Yield mount points and file system types of this process's namespace (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split(b" ")
            point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            yield point, fields[fields.index(b"-", 6) + 1].decode()


def _mount_one(mount: Mount | Overlay, target: str, how: How) -> None:
    try:
        if isinstance(mount, Overlay):
            _overlay(mount, target, how)
        elif mount.type == "bind":
            _bind(mount, target)
        elif mount.type == "overlay":
            _overlay(Overlay.parse(mount), target, how)
        else:
            raise Invalid(f"a mount of type {mount.type!r}, which only mount(8) can make", where=target)
    except OSError as error:
        kind = "overlay" if isinstance(mount, Overlay) else mount.type
        raise _refused(error, target, f"{kind} mount") from error


def _bind(mount: Mount, target: str) -> None:
    recursive = syscalls.MS_REC if "rbind" in mount.options else 0
    syscalls.mount(mount.source, target, "none", syscalls.MS_BIND | recursive)
    if "ro" not in mount.options:
        return
    held = os.statvfs(target).f_flag
    kept = sum(flag for shown, flag in _KEPT_FLAGS if held & shown)
    try:
        syscalls.mount("none", target, "none", syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY | kept)
    except BaseException:
        syscalls.umount(target, syscalls.MNT_DETACH)
        raise


def _overlay(overlay: Overlay, target: str, how: How) -> None:
    if len(overlay.lower) > MAX_LAYERS:
        raise Invalid(
            f"{len(overlay.lower)} layers, and overlayfs takes {MAX_LAYERS}", where=target, todo="flatten the chain"
        )
    target = os.path.abspath(target)
    if how == "mount" or not _has_lowerdir_plus(how):
        _with_short_names(overlay.from_anywhere(), lambda short: _with_mount(short, target))
        return
    if how == "auto" and len(overlay.lower) >= _MANY and overlay.directory and _are_short(_names(overlay)):
        with suppress(OSError, RuntimeError):  # if not for want of a thread, the other way fails as well, and says more
            _in_directory(overlay.directory, lambda: _with_mount(overlay, target))
            return
    overlay = overlay.from_anywhere()
    names = [os.fsencode(name) for name in _names(overlay)]
    # Kernels differ in which of these options they read backslashes as escapes.
    if max(map(len, names)) <= _MAX_VALUE and not any(b"\\" in name for name in names):
        _with_fsopen(overlay, target)
    else:
        _with_short_names(overlay, lambda short: _with_fsopen(short, target))


def _names(overlay: Overlay) -> list[str]:
    """Return the names of an overlay's directories, in the order of its fields."""
    return [name for name in (*overlay.lower, overlay.upper, overlay.work) if name]


def _are_short(names: list[str]) -> bool:
    """Whether names fit into the options of mount(2) as they are."""
    together = "/".join(names)
    return len(os.fsencode(together)) <= _PLENTY and not _SPECIAL.search(together)


_probed: dict[str, bool] = {}


def _has_lowerdir_plus(how: How) -> bool:
    """Whether the kernel knows `lowerdir+`, asked once."""
    if how == "fsopen":
        return True
    known = _probed.get("lowerdir+")
    if known is None:
        try:
            context = syscalls.FsContext("overlay")
        except OSError:
            return False
        try:
            context.set("lowerdir+", "/")
            known = True
        except OSError:
            known = False
        finally:
            context.close()
        _probed["lowerdir+"] = known
    return known


def _with_fsopen(overlay: Overlay, target: str) -> None:
    context = syscalls.FsContext("overlay")
    try:
        context.set("source", "overlay")
        context.set_each("lowerdir+", map(os.fsencode, reversed(overlay.lower)))
        if overlay.upper:
            context.set("upperdir", overlay.upper)
            context.set("workdir", overlay.work)
        for option in overlay.options:
            key, equals, value = option.partition("=")
            context.set(key, value if equals else None)
        if overlay.readonly:
            context.set("ro")
        context.attach(target, readonly=overlay.readonly)
    except OSError as error:
        message = context.message()
        raise OSError(error.errno, f"{error.strerror} ({message})" if message else error.strerror) from error
    finally:
        context.close()


def _with_mount(overlay: Overlay, target: str) -> None:
    options = ["lowerdir=" + ":".join(reversed(overlay.lower))]
    if overlay.upper:
        options += [f"upperdir={overlay.upper}", f"workdir={overlay.work}"]
    data = ",".join([*options, *overlay.options])
    if len(os.fsencode(data)) > _MAX_DATA:
        raise Invalid(f"{len(overlay.lower)} layers are more than this kernel mounts", where=target, todo="flatten")
    syscalls.mount("overlay", target, "overlay", syscalls.MS_RDONLY if overlay.readonly else 0, data)


def _with_short_names(overlay: Overlay, attach: Callable[[Overlay], None]) -> None:
    """Call `attach` in a thread that works in a directory from which all layers have short, plain names.

    The kernel takes 4095 bytes of options, or 255 of a single one. The process's working directory is
    left alone. Names relative to the directory that all have in common will often do; else they are symlinks.
    """
    paths = [os.path.abspath(path) for path in _names(overlay)]
    common = os.path.commonpath(paths)
    names = [path[len(common) :].lstrip("/") or "." for path in paths]
    if _are_short(names):
        _in_directory(common, lambda: attach(_renamed(overlay, names)))
        return
    with tempfile.TemporaryDirectory(prefix="shipway-mount-") as directory:
        names = [str(index) for index in range(len(paths))]
        for name, path in zip(names, paths, strict=True):
            os.symlink(path, os.path.join(directory, name))
        _in_directory(directory, lambda: attach(_renamed(overlay, names)))


def _renamed(overlay: Overlay, names: list[str]) -> Overlay:
    """Return the overlay with other names for its directories, in the order of its fields."""
    count = len(overlay.lower)
    upper, work = names[count:] or ("", "")
    return replace(overlay, lower=tuple(names[:count]), upper=upper, work=work)


def _in_directory(directory: str, action: Callable[[], None]) -> None:
    """Do something in a thread whose own working directory is `directory`."""
    failures: list[BaseException] = []
    running = _thread.allocate_lock()

    def run() -> None:
        try:
            syscalls.unshare_fs()
            os.chdir(directory)
            action()
        except BaseException as error:  # noqa: BLE001  handed over to the thread that waits
            failures.append(error)
        finally:
            running.release()

    running.acquire()
    _thread.start_new_thread(run, ())  # `threading` would wait for its start too, which on a busy machine is long
    try:
        running.acquire()
    except BaseException:
        running.acquire()  # what was begun is not left behind, to mount something later
        raise
    if failures:
        raise failures[0]


def _refused(error: OSError, target: str, what: str) -> ShipwayError:
    reason = error.strerror or str(error)
    if error.errno == errno.EBUSY:
        return Locked(f"{what}: in use: {reason}", where=target, todo="end what works in it")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{what}: a directory is missing: {reason}", where=target)
    if error.errno in (errno.EPERM, errno.EACCES):
        return Unavailable(f"{what} refused: {reason}", where=target, todo="run as root, or use the native driver")
    return Unavailable(f"{what} failed: {reason}", where=target)


__all__ = [
    "MAX_LAYERS",
    "Overlay",
    "escape",
    "filesystem_type",
    "is_mountpoint",
    "mount_all",
    "unmount",
]
