"""Writing entries into a directory, safely against whatever they say.

Every object is reached by the descriptor of its directory and its own name, so no entry leads through a
symlink or out of the tree. What directories get (modes, owners, times, attributes) comes at the end: until
then they must be writable and their times change anyway.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Self

from shipway.errors import Invalid, Unavailable, UnsafeEntry
from shipway.trees import xattrs
from shipway.trees.content import ContentWriter
from shipway.trees.dirfds import DirectoryFds, Root
from shipway.trees.entry import MAX_PATH, Content, Entry, OpenFile, implied, parent_of
from shipway.trees.made import Made
from shipway.trees.removal import empty_directory, remove_tree
from shipway.trees.special import make_special
from shipway.trees.system import read_umask, typed, typed_errors

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DEFAULT_ACL = "system.posix_acl_default"


def _checked(path: str) -> str:
    """Return a path whose every part is a name; `UnsafeEntry` if one is not."""
    if any(name in ("", ".", "..") for name in path.split("/")):
        raise UnsafeEntry(f"not a path inside a tree: {path[:200]!r}", where=path or "/")
    return path


class TreeWriter:
    """Writes entries under a directory that exists; `TreeSink` without its visibility.

    What is written stays when the block is left early (whoever gave the
    directory removes it), but never half a file. Whiteouts remove what was
    there before this writer; what it wrote itself they leave alone, whatever the order.

    Without privileges owners, `trusted.*` and `security.*` are left out. A
    device raises `Unavailable` then, or with `skip_devices` is put on the list `skipped`.
    With `keep_times`, directories that were there and got no entry keep their times.
    """

    def __init__(self, root: Root, *, skip_devices: bool = False, keep_times: bool = False) -> None:
        """Write under a path, or an open directory, which stays the caller's."""
        self.skipped: list[str] = []
        self._skip_devices = skip_devices
        self._keep_times = keep_times
        self._fds = DirectoryFds([root])
        self._contents = ContentWriter()
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._privileged = self._uid == 0
        self._fd_only_bits = read_umask() | 0o7000
        self._made = Made()
        self._directories: dict[str, Entry] = {}
        """What directories get at the end."""
        self._times: dict[str, int] = {}
        """Times of directories that were there."""
        self._inheriting: dict[str, tuple[int, bool]] = {}
        """Directories whose new files get another group (setgid), or an ACL, by inheritance."""
        self._enter("", self._fds.get(""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        self._fds.close()

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Write one entry; see `TreeSink.add`."""
        path = entry.path
        try:
            if entry.kind == "reg":
                self._add_file(entry, content)
            elif entry.kind == "dir":
                self._add_directory(entry)
            elif entry.kind == "whiteout" or (entry.kind == "char" and entry.dev == (0, 0)):
                self._whiteout(_checked(path))
            elif entry.kind == "opaque":
                self._opaque(_checked(path) if path else path)
            else:
                self._add_special(entry)
        except (OSError, ValueError, OverflowError) as error:
            raise typed(error, path) from error

    def finish(self) -> None:
        """Give the directories their metadata, the deepest first."""
        for path in sorted(self._directories.keys() | self._times.keys(), key=len, reverse=True):
            try:
                self._finish_directory(path)
            except (OSError, ValueError, OverflowError) as error:
                raise typed(error, path) from error
        self._directories.clear()
        self._times.clear()

    # -- files

    def _add_file(self, entry: Entry, content: Content) -> None:
        dir_fd, name = self._place(entry.path)
        if isinstance(content, OpenFile) and content.link and self._link_content(content.fd, dir_fd, name, entry.path):
            return
        mode = entry.mode
        # Setting an attribute takes a writable file, even for its owner.
        locked = bool(entry.xattrs) and not self._privileged
        first_mode = mode & 0o777 | 0o600 if locked else mode & 0o777
        try:
            fd = os.open(name, _CREATE, first_mode, dir_fd=dir_fd)
        except FileExistsError:
            self._clear(dir_fd, name, entry.path)
            fd = os.open(name, _CREATE, first_mode, dir_fd=dir_fd)
        try:
            self._contents.write(fd, content, entry.size, entry.path)
            inherits = self._inheriting and self._inheriting.get(parent_of(entry.path))
            if self._privileged and (entry.uid != self._uid or entry.gid != (inherits[0] if inherits else self._gid)):
                os.fchown(fd, entry.uid, entry.gid)
            if inherits and inherits[1]:
                xattrs.remove_others(fd, entry.xattrs, privileged=self._privileged)
            if entry.xattrs:
                xattrs.write(fd, entry.xattrs, privileged=self._privileged, path=entry.path)
            if mode & self._fd_only_bits or inherits or locked:
                os.fchmod(fd, mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except BaseException:
            os.unlink(name, dir_fd=dir_fd)
            raise
        finally:
            os.close(fd)
        self._mark(entry.path)

    def _link_content(self, fd: int, dir_fd: int, name: str, path: str) -> bool:
        """Make the file another name of the open file `fd`; return whether that could be done."""
        source = f"/proc/self/fd/{fd}"
        try:
            try:
                os.link(source, name, dst_dir_fd=dir_fd, follow_symlinks=True)
            except FileExistsError:
                self._clear(dir_fd, name, path)
                os.link(source, name, dst_dir_fd=dir_fd, follow_symlinks=True)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT):
                raise
            return False
        self._mark(path)
        return True

    def _add_special(self, entry: Entry) -> None:
        path = entry.path
        dir_fd, name = self._place(path)
        if entry.kind == "hardlink":
            self._add_link(entry, dir_fd, name)
            return
        if entry.kind in ("char", "block") and not self._privileged:
            self._refuse_device(path)
            return
        try:
            make_special(entry, dir_fd, name)
        except FileExistsError:
            self._clear(dir_fd, name, path)
            make_special(entry, dir_fd, name)
        except PermissionError as error:
            if entry.kind not in ("char", "block"):
                raise
            self._refuse_device(path, error)
            return
        self._mark(path)
        where = xattrs.child(dir_fd, name)
        inherits = self._inheriting.get(parent_of(path))
        if self._privileged and (entry.uid != self._uid or entry.gid != (inherits[0] if inherits else self._gid)):
            os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
        if inherits and inherits[1] and entry.kind != "symlink":
            xattrs.remove_others(where, entry.xattrs, privileged=self._privileged)
        if entry.xattrs:
            xattrs.write(where, entry.xattrs, privileged=self._privileged, path=path)
        if entry.kind != "symlink":
            fd = os.open(name, _PATH, dir_fd=dir_fd)
            try:
                os.chmod(f"/proc/self/fd/{fd}", entry.mode)
            finally:
                os.close(fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)

    def _refuse_device(self, path: str, error: OSError | None = None) -> None:
        if not self._skip_devices:
            raise Unavailable("making a device needs root", where=path) from error
        self.skipped.append(path)

    def _add_link(self, entry: Entry, dir_fd: int, name: str) -> None:
        target_fd, target = self._link_target(entry)
        dir_fd = self._place(entry.path)[0]  # finding the target may have closed it
        try:
            os.link(target, name, src_dir_fd=target_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except FileExistsError:
            self._clear(dir_fd, name, entry.path)
            os.link(target, name, src_dir_fd=target_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        self._mark(entry.path)

    def _link_target(self, entry: Entry) -> tuple[int, str]:
        """Return where the target of a hard link is; it must be in the tree and no directory."""
        directory, _, target = entry.link.rpartition("/")
        bad = target in ("", ".", "..") or f"{entry.link}/".startswith(f"{entry.path}/")
        target_fd = -1
        try:
            target_fd = self._fds.get(directory)
            bad = bad or stat.S_ISDIR(os.stat(target, dir_fd=target_fd, follow_symlinks=False).st_mode)
        except (OSError, ValueError):
            bad = True
        if bad:
            raise UnsafeEntry(f"a hard link to {entry.link[:200]!r}, which is no file of the tree", where=entry.path)
        return target_fd, target

    # -- directories

    def _add_directory(self, entry: Entry) -> None:
        path = entry.path
        if path:
            dir_fd, name = self._place(path)
            try:
                os.mkdir(name, 0o700, dir_fd=dir_fd)
            except FileExistsError:
                if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                    if path not in self._made.directories:
                        self._enter(path, self._fds.get(path))
                    self._directories[path] = entry
                    return
                self._clear(dir_fd, name, path)
                os.mkdir(name, 0o700, dir_fd=dir_fd)
                self._remade(path)
            self._inherit(path)
            self._mark(path, directory=True)
        self._directories[path] = entry

    def _remade(self, path: str) -> None:
        """Hear of a directory made where something else was."""

    def _place(self, path: str) -> tuple[int, str]:
        """Return the descriptor of the directory that holds `path`, made if need be, and its name there."""
        directory, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise UnsafeEntry(f"not a path inside a tree: {path[:200]!r}", where=path or "/")
        return self._parent(directory, path), name

    def _parent(self, directory: str, path: str) -> int:
        """Return the descriptor of a directory that something is written into, made if need be."""
        if directory in self._made.directories:
            try:
                return self._fds.get(directory)
            except (FileNotFoundError, NotADirectoryError):
                pass
        return self._make_parents(directory, path)

    def _enter(self, path: str, fd: int) -> None:
        """Note what matters about a directory that was there before the first entry goes into it."""
        st = os.fstat(fd)
        acl = xattrs.get(fd, _DEFAULT_ACL) is not None
        if acl or st.st_mode & stat.S_ISGID:
            self._inheriting[path] = (st.st_gid if st.st_mode & stat.S_ISGID else self._gid, acl)
        if self._keep_times:
            self._times.setdefault(path, st.st_mtime_ns)
        self._mark(path, directory=True)

    def _mark(self, path: str, *, directory: bool = False) -> None:
        """Note that this layer put something at `path`, or below the `directory` that is there."""
        self._made.add(path, directory=directory)

    def _make_parents(self, directory: str, path: str) -> int:
        """Make the missing ones of the directories above `path`, the last of which is `directory`."""
        if len(directory) > MAX_PATH:
            raise Invalid(f"a path of more than {MAX_PATH} bytes", where=path[:200])
        fd = self._fds.get("")
        part = ""
        for name in directory.split("/") if directory else ():
            above, part = fd, f"{part}/{name}" if part else name
            try:
                fd = self._fds.get(part)
            except FileNotFoundError:
                fd = self._make_parent(part, above, name)
            except NotADirectoryError as error:
                self._make_way(part, above, name, error)
                fd = self._make_parent(part, above, name)
            else:
                if part not in self._made.directories:
                    self._enter(part, fd)
        return fd

    def _make_parent(self, path: str, above: int, name: str) -> int:
        """Make a directory that no entry was given for."""
        if name in ("", ".", ".."):
            raise UnsafeEntry("not a path inside a tree", where=path)
        entry = self._implied(path)
        os.mkdir(name, 0o700, dir_fd=above)
        self._inherit(path)
        self._mark(path, directory=True)
        self._directories[path] = entry
        return self._fds.get(path)

    def _implied(self, path: str) -> Entry:
        """Return what the directory `path` gets, which no entry was given for and which is not there."""
        return implied(path)

    def _inherit(self, path: str) -> None:
        """Note that a new directory got its parent's default ACL and setgid bit, for now."""
        if self._inheriting:
            above = self._inheriting.get(parent_of(path))
            if above is not None:
                self._inheriting[path] = above

    def _make_way(self, path: str, above: int, name: str, error: OSError) -> None:
        """Decide on something at `path` that is no directory though an entry needs one: it is refused."""
        del above, name
        raise UnsafeEntry("an entry below it, and it is not a directory", where=path) from error

    def _finish_directory(self, path: str) -> None:
        fd = self._fds.get(path)
        entry = self._directories.get(path)
        if entry is None:
            mtime_ns = self._times[path]
        else:
            mtime_ns = entry.mtime_ns
            st = os.fstat(fd)
            if self._privileged and (st.st_uid != entry.uid or st.st_gid != entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            if not self._privileged:
                os.fchmod(fd, 0o700)  # setting an attribute takes a writable directory
            xattrs.remove_others(fd, entry.xattrs, privileged=self._privileged)
            if entry.xattrs:
                xattrs.write(fd, entry.xattrs, privileged=self._privileged, path=path)
            os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(mtime_ns, mtime_ns))

    # -- removing

    def _clear(self, dir_fd: int, name: str, path: str) -> None:
        """Remove what is at `path` to make room."""
        try:
            os.unlink(name, dir_fd=dir_fd)
        except IsADirectoryError:
            self._forget(path)
            remove_tree(dir_fd, name)

    def _forget(self, path: str) -> None:
        """Drop what is known about a directory and all below it."""
        self._fds.forget(path)
        below = path + "/"
        for known in (self._directories, self._times, self._inheriting):
            for one in [one for one in known if one == path or one.startswith(below)]:
                del known[one]
        self._made.forget(path)

    def _existing(self, path: str) -> int | None:
        """Return the descriptor of a directory of the tree, or None if it is none."""
        try:
            return self._fds.get(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _whiteout(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        dir_fd = self._existing(directory)
        if dir_fd is None:
            return
        if path in self._made:
            self._opaque(path)
            return
        if self._keep_times and directory not in self._times:
            self._times[directory] = os.fstat(dir_fd).st_mtime_ns
        try:
            self._clear(dir_fd, name, path)
        except FileNotFoundError:
            return

    def _opaque(self, path: str) -> None:
        """Remove what a directory held before this layer."""
        if self._existing(path) is None:
            return
        with os.scandir(self._parent(path, path)) as items:
            found = [(item.name, item.is_dir(follow_symlinks=False)) for item in items]
        for name, is_directory in found:
            below = f"{path}/{name}" if path else name
            if below not in self._made:
                self._clear(self._fds.get(path), name, below)
            elif is_directory:
                self._opaque(below)


__all__ = ["TreeWriter", "empty_directory", "read_umask", "remove_tree", "typed", "typed_errors"]
