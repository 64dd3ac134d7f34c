"""Who is alive: a process instance is a lock file held with flock.

Every open store is an *instance* with a file `locks/INSTANCE`. The kernel
lets go of the lock when the process dies, however it dies, so whether an
instance lives can be asked of the lock alone, from any process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipway import stopping

_POLL = 0.01
"""Seconds between two looks at a lock that somebody else has."""


class Leases:
    """This process's instance, and the locks of a store."""

    def __init__(self, directory: Path) -> None:
        """Become a new instance; `directory` holds the lock files and exists."""
        self.directory = directory
        self.instance = f"i-{os.getpid()}-{secrets.token_hex(6)}"
        self._fd = _lock(directory / self.instance, fcntl.LOCK_EX)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A forked child shares the open file, and with it the lock: it must not keep the parent's instance alive.
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_alive(self, instance: str) -> bool:
        """Whether the process that opened the store as `instance` still has it open."""
        if instance == self.instance:
            return self._fd >= 0
        if not instance:  # of nobody
            return False
        path = self.directory / instance
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who ask at the same time about somebody dead do not take each other for them.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def others(self) -> tuple[list[str], list[str]]:
        """Return the other instances that have a lock file: those alive, and those dead."""
        alive: list[str] = []
        dead: list[str] = []
        for name in os.listdir(self.directory):
            if name.startswith("i-") and name != self.instance:
                (alive if self.is_alive(name) else dead).append(name)
        return alive, dead

    def bury(self, instance: str) -> None:
        """Remove a dead instance's lock file."""
        (self.directory / instance).unlink(missing_ok=True)

    def stale_locks(self, *, remove: bool = True) -> list[str]:
        """Return the names of store-wide locks that died with their holders; their files are removed if told to."""
        stale = []
        for name in sorted(os.listdir(self.directory)):
            if not name.startswith("l-"):
                continue
            try:
                fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self.directory / name)):
                    stale.append(name)
                    if remove:  # whoever waits for it sees that, and makes another
                        (self.directory / name).unlink()
            except (BlockingIOError, FileNotFoundError):
                pass
            finally:
                os.close(fd)
        return stale

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the store-wide lock `name` among all threads and processes, waiting for it."""
        path = self.directory / f"l-{name}"
        fd = _lock(path, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def close(self) -> None:
        """Stop being an instance."""
        if self._fd >= 0:
            self.bury(self.instance)
            self._forget()


def _lock(path: Path, how: int) -> int:
    """Return a descriptor of the file at `path`, made if needed, with the flock taken."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(fd, how)
            # Whoever had it before may have removed the file while we waited; then we hold a lock nobody sees.
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _flock(fd: int, how: int) -> None:
    """Take a lock, waiting for it; not in the kernel, where a thread could not be told to stop."""
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            stopping.sleep(_POLL)
        else:
            return
