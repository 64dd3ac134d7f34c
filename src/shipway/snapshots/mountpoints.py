"""Places to show trees at for a while, which do not outlive their process.

`mounts/TOKEN` belongs to one driver of one process, which holds a lock on it; the next driver that finds
the lock free takes away what a dead process left mounted there.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from shipway.errors import Locked, NotFound, ShipwayError
from shipway.snapshots.mount import is_mountpoint, unmount
from shipway.trees.removal import remove_tree

_LOCK = "lock"
_COPY = "copy-"


class Mountpoints:
    """Makes and removes directories under `ROOT/mounts` for one process."""

    def __init__(self, root: Path) -> None:
        self._base = root / "mounts"
        self._base.mkdir(mode=0o700, exist_ok=True)
        self._guard = threading.Lock()
        self._own: Path | None = None
        self._owner = -1
        self._lock_fd = -1
        self._count = itertools.count()
        os.register_at_fork(after_in_child=self._forget)
        self.reclaim()

    def _forget(self) -> None:
        # A forked child shares the open lock: it must not keep the parent's directory locked.
        if self._own is not None and self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._own, self._lock_fd = None, -1

    def new(self) -> Path:
        """Return a new empty directory to mount on."""
        path = self._home() / f"mount-{next(self._count)}"
        path.mkdir(mode=0o700)
        return path

    def new_copy(self) -> Path:
        """Return a new empty directory to put a private copy in."""
        path = self._home() / f"{_COPY}{next(self._count)}"
        path.mkdir(mode=0o700)
        return path

    def release(self, path: Path) -> bool:
        """Unmount what is at a mount point and remove it; return whether something was still using it.

        Then it is only detached: it is gone from here, and ends with its last user.
        """
        busy = False
        try:
            unmount(path)
        except Locked:
            busy = True
            unmount(path, detach=True)
        except NotFound:  # the driver was closed meanwhile
            return False
        except ShipwayError:
            if is_mountpoint(path):  # else somebody else unmounted it
                raise
        path.rmdir()  # never recursively: were it still mounted, the snapshot's files would go
        return busy

    def give_up(self, path: Path) -> None:
        """Remove a mount point that was not mounted on, or was when an interrupt came."""
        with suppress(ShipwayError):
            unmount(path, detach=True)
        path.rmdir()

    def discard_copy(self, path: Path) -> None:
        """Remove a private copy."""
        _remove(path)

    def close(self) -> None:
        """Take away this process's directory, and what is still mounted there."""
        with self._guard:
            if self._own is not None and self._owner == os.getpid():
                self._clear(self._own)
                os.close(self._lock_fd)
                self._own, self._lock_fd = None, -1

    def _home(self) -> Path:
        with self._guard:
            if self._own is None or self._owner != os.getpid():
                self._own, self._lock_fd = self._make_home()
                self._owner = os.getpid()
            return self._own

    def _make_home(self) -> tuple[Path, int]:
        """Return a new directory and its lock, which is taken."""
        while True:
            own = self._base / secrets.token_hex(6)
            own.mkdir(mode=0o700)
            try:
                fd = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # somebody took it for one that was left behind
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return own, fd
            os.close(fd)  # same, a moment later

    def reclaim(self) -> None:
        """Take away what processes that died since left mounted."""
        self.leftovers(remove=True)

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return the directories that dead processes left here, as paths below the root."""
        found = []
        for home in [self._base / name for name in _names(self._base)]:
            try:
                fd = os.open(home / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # just being made, or removed, by somebody else
                with suppress(OSError):
                    home.rmdir()
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(f"{self._base.name}/{home.name}")
                if remove:
                    self._clear(home)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
        return found

    @staticmethod
    def _clear(home: Path) -> None:
        for path in [home / name for name in _names(home)]:
            if path.name == _LOCK:
                continue
            if path.name.startswith(_COPY):
                _remove(path)
                continue
            with suppress(ShipwayError):
                while True:  # as many times as something is mounted there
                    unmount(path, detach=True)
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            (home / _LOCK).unlink()
            home.rmdir()


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:  # somebody else was faster
        return []


def _remove(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, path.name)
    finally:
        os.close(fd)
