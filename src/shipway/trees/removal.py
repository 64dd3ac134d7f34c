"""Removing whole directories by descriptors: no symlink is followed, nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import secrets

from shipway.trees.dirfds import FLAGS

_DEPTH = 64
"""Most directories that are open at a time."""


def remove_tree(dir_fd: int, name: str) -> None:
    """Remove `name` in an open directory, whatever it is, with everything below; none there is no error.

    Directories that do not let their owner write are made to. Raises `OSError` for
    what cannot be removed, a mount point say.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        fd = _open(dir_fd, name)
        try:
            empty_directory(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dir_fd)


def empty_directory(fd: int) -> None:
    """Remove all there is in an open directory.

    Works iteratively and keeps few descriptors, so depth does not matter.
    """
    for name in _remove_files(fd):
        _remove_directory(fd, name)


def _remove_directory(dir_fd: int, name: str) -> None:
    """Remove a directory of any depth: parts that are too deep are moved up and then removed from there."""
    top = _open(dir_fd, name)
    stack = [(name, top, _remove_files(top))]
    try:
        while stack:
            name, fd, left = stack[-1]
            if left:
                below = left.pop()
                child = _open(fd, below)
                if len(stack) < _DEPTH:
                    stack.append((below, child, _remove_files(child)))
                else:
                    os.close(child)
                    moved = secrets.token_hex(16)
                    os.rename(below, moved, src_dir_fd=fd, dst_dir_fd=top)
                    stack[0][2].append(moved)
                continue
            stack.pop()
            os.close(fd)
            os.rmdir(name, dir_fd=stack[-1][1] if stack else dir_fd)
    finally:
        for _, fd, _ in stack:
            os.close(fd)


def _open(dir_fd: int, name: str) -> int:
    try:
        return os.open(name, FLAGS, dir_fd=dir_fd)
    except PermissionError:
        _make_writable(dir_fd, name)
        return os.open(name, FLAGS, dir_fd=dir_fd)


def _make_writable(dir_fd: int, name: str) -> None:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _remove_files(fd: int) -> list[str]:
    """Remove what is no directory in `fd`; return the names of the directories."""
    with os.scandir(fd) as items:
        found = [(item.name, item.is_dir(follow_symlinks=False)) for item in items]
    if found and os.geteuid() != 0:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o700)
    for name, is_directory in found:
        if not is_directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in found if is_directory]
