"""What a directory looks like to the operating system, and where two of them differ.

Made to check the rest of the package, so it shares nothing with the code that
packs and unpacks trees: `lstat`, `read` and `listxattr`, no more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path

_KEPT_XATTRS = ("user.", "trusted.", "security.capability", "system.posix_acl_")
_DRIVERS_XATTRS = ("user.overlay.", "trusted.overlay.")
_PIECE = 1 << 20
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Look:
    """All that has to survive about one object of a tree."""

    type: str
    """`file`, `directory`, `symlink`, `device`, `fifo` or `socket`."""
    mode: int
    """Permission bits with setuid, setgid and sticky."""
    owner: tuple[int, int]
    """Numbers of user and group."""
    mtime_ns: int
    size: int
    """Bytes of content; 0 for everything but files."""
    content: str
    """The sha256 of a file's content."""
    target: str
    """A symlink's target."""
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...]
    """All paths of the file, in order; more than one if it is hard-linked."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which one path differs."""

    path: str
    what: str
    """A field of `Look`, or `missing`, or `unexpected`."""
    expected: str = ""
    actual: str = ""

    def __str__(self) -> str:
        detail = f": {self.expected} expected, {self.actual} found" if self.expected or self.actual else ""
        return f"/{self.path}: {self.what}{detail}"


def look(root: str | Path) -> dict[str, Look]:
    """Return a description of everything in the directory `root`, by path; the root itself is `""`.

    Extended attributes that the kernel or a snapshot driver uses for itself are
    left out. Raises `OSError` for what cannot be read.
    """
    found: dict[str, tuple[os.stat_result, Look]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for base, dirs, files, fd in os.fwalk(root, onerror=_raise):
        prefix = os.path.relpath(base, root)
        prefix = "" if prefix == "." else prefix + "/"
        if not prefix:
            found[""] = _look(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd))
        for name in dirs + files:
            path = prefix + name
            found[path] = _look_at(name, fd, os.path.join(root, path))
            status = found[path][0]
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {path: _with_names(one, names.get((st.st_dev, st.st_ino), [])) for path, (st, one) in found.items()}


def differences(expected: Mapping[str, Look], actual: Mapping[str, Look], *, owners: bool = True) -> list[Difference]:
    """Return every difference between two descriptions, in the order of paths.

    Without `owners` nobody minds who owns what, since only root can give files away; nor then
    whether a device is there, and which attributes outside `user.` something has.
    """
    return [
        difference
        for path in sorted(expected.keys() | actual.keys())
        for difference in _compare(path, expected.get(path), actual.get(path), privileged=owners)
    ]


def _compare(path: str, expected: Look | None, actual: Look | None, *, privileged: bool) -> Iterator[Difference]:
    if expected is None:
        yield Difference(path, "unexpected")
    elif actual is None:
        if privileged or expected.type != "device":
            yield Difference(path, "missing")
    else:
        for field in fields(Look):
            left, right = getattr(expected, field.name), getattr(actual, field.name)
            if not privileged and field.name == "owner":
                continue
            if not privileged and field.name == "xattrs":
                left, right = _of_user(left), _of_user(right)
            if left != right:
                yield Difference(path, field.name, *_shown(field.name, left, right))


def _shown(field: str, expected: object, actual: object) -> tuple[str, str]:
    if field == "mode":
        return f"{expected:04o}", f"{actual:04o}"
    return str(expected)[:_SHOWN], str(actual)[:_SHOWN]


def _of_user(xattrs: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    return tuple(item for item in xattrs if item[0].startswith("user."))


def _look_at(name: str, dir_fd: int, path: str) -> tuple[os.stat_result, Look]:
    try:
        return _look_below(name, dir_fd)
    except OSError as error:
        error.filename = path  # all of it, and not what stands below some descriptor
        raise


def _look_below(name: str, dir_fd: int) -> tuple[os.stat_result, Look]:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return _look(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd))
    # Symlinks, devices and fifos are not opened; their attributes are reached through their directory.
    target = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(status.st_mode) else ""
    return status, _make(status, _xattrs(f"/proc/self/fd/{dir_fd}/{name}"), target=target)


def _look(fd: int) -> tuple[os.stat_result, Look]:
    try:
        status = os.fstat(fd)
        content = _digest(fd) if stat.S_ISREG(status.st_mode) else ""
        return status, _make(status, _xattrs(fd), content=content)
    finally:
        os.close(fd)


def _make(
    status: os.stat_result, xattrs: tuple[tuple[str, bytes], ...], *, content: str = "", target: str = ""
) -> Look:
    kind = _type(status.st_mode)
    return Look(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        content=content,
        target=target,
        device=status.st_rdev if kind == "device" else 0,
        xattrs=xattrs,
        names=(),
    )


def _with_names(one: Look, names: list[str]) -> Look:
    return replace(one, names=tuple(sorted(names)))


def _type(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _digest(fd: int) -> str:
    digest = sha256()
    while piece := os.read(fd, _PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _xattrs(where: str | int) -> tuple[tuple[str, bytes], ...]:
    follow = isinstance(where, int)
    return tuple(
        (name, os.getxattr(where, name, follow_symlinks=follow))
        for name in sorted(os.listxattr(where, follow_symlinks=follow))
        if name.startswith(_KEPT_XATTRS) and not name.startswith(_DRIVERS_XATTRS)
    )


def _raise(error: OSError) -> None:
    raise error
