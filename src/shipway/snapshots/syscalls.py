"""The few system calls about mounting and flushing that Python lacks, through ctypes.

Each raises `OSError` with the kernel's errno. Numbers are those of the generic table, which
x86-64, AArch64, RISC-V and others share.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path

MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
MOUNT_ATTR_RDONLY = 1

_CLONE_FS = 0x200
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MESSAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def _prototype(name: str, result: type, *arguments: type) -> Callable[..., int]:
    """Return a function of the C library, told once what it takes: to convert that at each call takes longer."""
    function = _libc[name]
    function.restype, function.argtypes = result, arguments
    return function


_long, _int, _text = ctypes.c_long, ctypes.c_int, ctypes.c_char_p
_mount = _prototype("mount", _int, _text, _text, _text, ctypes.c_ulong, _text)
_umount2 = _prototype("umount2", _int, _text, _int)
_fsopen = _prototype("syscall", _long, _long, _text, ctypes.c_uint)
_fsconfig = _prototype("syscall", _long, _long, _int, ctypes.c_uint, _text, _text, _int)
_fsmount = _prototype("syscall", _long, _long, _int, ctypes.c_uint, ctypes.c_uint)
_move_mount = _prototype("syscall", _long, _long, _int, _text, _int, _text, ctypes.c_uint)


def _check(result: int, where: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), where)
    return result


def mount(source: str, target: str | Path, kind: str, flags: int, data: str = "") -> None:
    """Show `source` at `target`; `data` holds the options of the file system (mount(2))."""
    encoded = [os.fsencode(one) for one in (source, target, kind)]
    _check(_mount(*encoded, flags, os.fsencode(data) if data else None), str(target))


def umount(target: str | Path, flags: int = 0) -> None:
    """Unmount as umount2(2) does, not following a symlink."""
    _check(_umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), str(target))


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` is on to its disk."""
    _check(_libc.syncfs(fd))


def unshare_fs() -> None:
    """Give the calling thread a working directory of its own."""
    _check(_libc.unshare(_CLONE_FS))


class FsContext:
    """A file system being put together: fsopen(2), fsconfig(2), fsmount(2), move_mount(2) of Linux 5.2."""

    def __init__(self, kind: str) -> None:
        self.fd = _check(_fsopen(_FSOPEN, os.fsencode(kind), _FSOPEN_CLOEXEC))

    def set(self, key: str, value: str | None = None) -> None:
        """Set a parameter, or a flag if it has no value. The kernel takes at most 255 bytes."""
        if value is None:
            _check(_fsconfig(_FSCONFIG, self.fd, _FSCONFIG_SET_FLAG, os.fsencode(key), None, 0))
        else:
            self.set_each(key, [os.fsencode(value)])

    def set_each(self, key: str, values: Iterable[bytes]) -> None:
        """Set a parameter that adds up to each of some values."""
        encoded = os.fsencode(key)
        for value in values:
            if _fsconfig(_FSCONFIG, self.fd, _FSCONFIG_SET_STRING, encoded, value, 0) < 0:
                _check(-1, os.fsdecode(value))

    def attach(self, target: str | Path, *, readonly: bool) -> None:
        """Make the file system and show it at `target`."""
        _check(_fsconfig(_FSCONFIG, self.fd, _FSCONFIG_CMD_CREATE, None, None, 0))
        fd = _check(_fsmount(_FSMOUNT, self.fd, _FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY if readonly else 0))
        try:
            _check(_move_mount(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH))
        finally:
            os.close(fd)

    def message(self) -> str:
        """Return what the kernel has to say about a failure; empty if nothing."""
        try:
            return os.read(self.fd, _MESSAGE).decode("utf-8", "replace").strip().removeprefix("e ")
        except OSError:  # ENODATA: no message
            return ""

    def close(self) -> None:
        """Drop it; a file system that was attached stays."""
        os.close(self.fd)
