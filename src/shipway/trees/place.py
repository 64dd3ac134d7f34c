"""Moving a finished tree into a directory where things may be already, all or nothing.

A tree is first written to a *staging* directory inside its destination, on the
same file system, where nobody looks for it. Moving it into place is then renaming: what is
new moves with all that is below it, a file that is replaced is so in one step, directories
merge. What is about to be done is noted first, so that it can be taken back.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from shipway.errors import Invalid
from shipway.trees import xattrs
from shipway.trees.dirfds import FLAGS, DirectoryFds, open_root
from shipway.trees.entry import join
from shipway.trees.removal import remove_tree
from shipway.trees.writer import typed

STAGING_PREFIX = ".shipway-"
"""How the names of staging directories begin; one that a killed process left behind can be removed."""

_STAGED, _PLACED = 0, 1
_TREE, _ASIDE = "tree", "aside"
_NO_LINK = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Destination:
    """A directory that a tree is to land in; `created` if it was not there before."""

    path: Path
    fd: int
    created: bool


@dataclass(frozen=True, slots=True)
class _Looks:
    """A directory's metadata."""

    mode: int
    owner: tuple[int, int]
    times: tuple[int, int]
    attributes: dict[str, bytes]

    @classmethod
    def of(cls, fd: int) -> _Looks:
        st = os.fstat(fd)
        return cls(stat.S_IMODE(st.st_mode), (st.st_uid, st.st_gid), (st.st_atime_ns, st.st_mtime_ns), xattrs.read(fd))

    def give_first(self, fd: int, path: str) -> None:
        """Set what may be refused: owner and attributes."""
        privileged = os.geteuid() == 0
        st = os.fstat(fd)
        if privileged and (st.st_uid, st.st_gid) != self.owner:
            os.fchown(fd, *self.owner)
        xattrs.remove_others(fd, self.attributes, privileged=privileged)
        xattrs.write(fd, self.attributes, privileged=privileged, path=path)

    def give_last(self, fd: int) -> None:
        """Set the mode, after which we may not write there any more, and the times."""
        with suppress(PermissionError):  # somebody else's directory that we may write to
            os.fchmod(fd, self.mode)
            os.utime(fd, ns=self.times)


@contextmanager
def destination(to_path: str | Path) -> Iterator[Destination]:
    """Open the directory `to_path`, made with its parents where they are lacking.

    If the block is left by an exception, directories made here are removed again, and one
    that was there has its old times. Raises `Invalid` if there is something else.
    """
    path = Path(to_path)
    made: list[Path] = []
    try:
        fd = _open_or_make(path, made)
        before = os.fstat(fd)
        try:
            yield Destination(path, fd, created=bool(made))
        except BaseException:
            with suppress(OSError):
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            raise
        finally:
            os.close(fd)
    except BaseException:
        for part in reversed(made):
            with suppress(OSError):  # somebody else put something there meanwhile
                part.rmdir()
        raise


def _open_or_make(path: Path, made: list[Path]) -> int:
    try:
        for part in [*reversed(path.parents), path]:
            if not part.is_dir():
                with suppress(FileExistsError):
                    part.mkdir()
                    made.append(part)
        return open_root(path)
    except (NotADirectoryError, ValueError) as error:
        raise Invalid("not a directory", where=str(path)) from error
    except OSError as error:
        raise typed(error, str(path)) from error


@contextmanager
def staging(where: Destination, *, with_root: bool) -> Iterator[Staging]:
    """Make a staging directory in a destination; it is gone when the block is left.

    `with_root`: the destination itself gets the metadata of the staged tree's root when the tree is placed.
    """
    name = STAGING_PREFIX + secrets.token_hex(8)
    opened: list[int] = []
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=where.fd)
            opened.append(os.open(name, FLAGS, dir_fd=where.fd))
            for part in (_TREE, _ASIDE):
                os.mkdir(part, 0o700, dir_fd=opened[0])
                opened.append(os.open(part, FLAGS, dir_fd=opened[0]))
        except OSError as error:
            raise typed(error, str(where.path)) from error
        staged = Staging(where, opened[1], opened[2], with_root)
        yield staged
    finally:
        for fd in opened:
            os.close(fd)
        remove_tree(where.fd, name)
    staged.finish()


@dataclass(slots=True)
class Staging:
    """A tree being written under `fd`, to be moved into its destination by `place`."""

    where: Destination
    fd: int
    """The root directory of the staged tree."""
    aside_fd: int
    with_root: bool
    _root: _Looks | None = None
    _moved: list[str] = field(default_factory=list)
    _replaced: list[str] = field(default_factory=list)
    _before: dict[str, _Looks] = field(default_factory=dict)
    _after: dict[str, _Looks] = field(default_factory=dict)

    def place(self) -> None:
        """Move the tree into place, or else leave the destination as it was.

        A directory over a directory merges and gives it its metadata; anything else over
        anything else replaces it. Raises `Invalid` where just one of the two is a directory.
        """
        fds = DirectoryFds([self.fd, self.where.fd])
        try:
            if self.with_root:
                self._root = _Looks.of(self.fd)
            self._move_all(fds)
            self._dress(fds)
        except BaseException as error:
            fds.close()  # so that every directory is looked up anew
            self._take_back(fds)
            if isinstance(error, OSError):
                raise typed(error, str(self.where.path)) from error
            raise
        finally:
            fds.close()

    def finish(self) -> None:
        """Complete the destination's own metadata, once nothing of the staging is left in it."""
        if self._root:
            self._root.give_last(self.where.fd)

    def _move_all(self, fds: DirectoryFds) -> None:
        pending = [""]
        while pending:
            directory = pending.pop()
            with os.scandir(fds.get(directory, _STAGED)) as items:
                found = [(item.name, item.is_dir(follow_symlinks=False)) for item in items]
            for name, is_dir in found:
                if not self._move(fds, directory, name, is_dir=is_dir):
                    pending.append(join(directory, name))

    def _move(self, fds: DirectoryFds, directory: str, name: str, *, is_dir: bool) -> bool:
        """Move one object; return False for a directory that is to be merged with one that is there."""
        source, target = fds.get(directory, _STAGED), fds.get(directory, _PLACED)
        path = join(directory, name)
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            self._moved.append(path)
            _rename(source, target, name)
            return True
        if stat.S_ISDIR(there.st_mode) != is_dir:
            what = "not a directory, and a directory" if is_dir else "a directory, and something else"
            raise Invalid(f"is {what} would take its place", where=str(self.where.path / path))
        if is_dir:
            self._meet(fds, path, name, source)
            return False
        self._replaced.append(path)
        aside = str(len(self._replaced))
        try:
            os.link(name, aside, src_dir_fd=target, dst_dir_fd=self.aside_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            os.rename(name, aside, src_dir_fd=target, dst_dir_fd=self.aside_fd)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        return True

    def _meet(self, fds: DirectoryFds, path: str, name: str, source: int) -> None:
        """Note what a directory to be merged looks like, and is to look like."""
        mode = stat.S_IMODE(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=source)  # staged, so ours, and it goes away
        self._after[path] = replace(_Looks.of(fds.get(path, _STAGED)), mode=mode)
        self._before[path] = _Looks.of(fds.get(path, _PLACED))

    def _dress(self, fds: DirectoryFds) -> None:
        for path, looks in self._after.items():
            looks.give_first(fds.get(path, _PLACED), path)
        for path in reversed(self._after):  # the deepest first: a mode may close what is below
            self._after[path].give_last(fds.get(path, _PLACED))
        if self._root:
            self._root.give_first(self.where.fd, str(self.where.path))

    def _take_back(self, fds: DirectoryFds) -> None:
        for number, path in enumerate(self._replaced, 1):
            directory, _, name = path.rpartition("/")
            with suppress(FileNotFoundError):  # it had not been set aside yet
                os.rename(str(number), name, src_dir_fd=self.aside_fd, dst_dir_fd=fds.get(directory, _PLACED))
        for path in reversed(self._moved):
            directory, _, name = path.rpartition("/")
            source, target = fds.get(directory, _STAGED), fds.get(directory, _PLACED)
            with suppress(FileNotFoundError):  # it had not been moved yet
                _rename(target, source, name)
        for path in reversed(self._before):
            fd = fds.get(path, _PLACED)
            self._before[path].give_first(fd, path)
            self._before[path].give_last(fd)


def _rename(source: int, target: int, name: str) -> None:
    """Move `name` between open directories, even a directory that must be made writable for that."""
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:
        mode = stat.S_IMODE(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode)
        if mode & stat.S_IWUSR:
            raise
        os.chmod(name, mode | stat.S_IRWXU, dir_fd=source)
        fd = os.open(name, FLAGS, dir_fd=source)
        try:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
