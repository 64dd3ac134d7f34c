"""Real trees for tests, and a full description of a tree to compare by."""

from __future__ import annotations

import os
import random
import socket
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

KEPT_XATTRS = ("user.", "trusted.", "security.capability", "system.posix_acl_")
MTIME = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class Seen:
    """All that has to survive about one object of a tree."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str
    link: str
    dev: int
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...]
    """All paths of a hard-linked file."""


def below(tree: Path) -> list[Path]:
    """Return all that is in a tree; `Path.rglob` of Python 3.11.2 fails at a symlink whose target is too long."""
    return [Path(root, name) for root, names, others in os.walk(tree) for name in (*names, *others)]


def describe(root: Path, *, owners: bool = True, dir_times: bool = True) -> dict[str, Seen]:
    """Return everything there is to compare about a tree, by relative path ("" is the root)."""
    paths = [""]
    for base, dirs, files in os.walk(root):
        prefix = os.path.relpath(base, root)
        paths += [os.path.normpath(os.path.join(prefix, name)) for name in dirs + files]
    names: dict[tuple[int, int], list[str]] = {}
    stats = {path: os.lstat(root / path if path else root) for path in paths}
    for path, st in stats.items():
        if not stat.S_ISDIR(st.st_mode):
            names.setdefault((st.st_dev, st.st_ino), []).append(path)
    seen = {}
    for path, st in stats.items():
        full = root / path if path else root
        is_dir = stat.S_ISDIR(st.st_mode)
        xattrs = tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in sorted(os.listxattr(full, follow_symlinks=False))
            if name.startswith(KEPT_XATTRS) and not name.startswith(("trusted.overlay.", "user.overlay."))
        )
        seen[path] = Seen(
            mode=st.st_mode,
            uid=st.st_uid if owners else 0,
            gid=st.st_gid if owners else 0,
            mtime_ns=st.st_mtime_ns if dir_times or not is_dir else 0,
            content=sha256(full.read_bytes()).hexdigest() if stat.S_ISREG(st.st_mode) else "",
            link=os.readlink(full) if stat.S_ISLNK(st.st_mode) else "",
            dev=st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0,
            xattrs=xattrs,
            names=() if is_dir else tuple(sorted(names[st.st_dev, st.st_ino])),
        )
    return seen


def make_varied_tree(root: Path) -> Path:
    """Make a tree with everything in it that a tree can hold with the rights we have; return `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "bin").mkdir()
    (root / "bin/tool").write_bytes(b"#!/bin/sh\nexit 0\n" * 40)
    (root / "bin/tool").chmod(0o755)
    (root / "bin/link").symlink_to("tool")
    (root / "bin/absolute").symlink_to("/bin/tool")
    (root / "bin/dangling").symlink_to("nowhere/at/all")
    (root / "empty").write_bytes(b"")
    (root / "emptydir").mkdir()
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "private").mkdir()
    (root / "private/secret").write_bytes(b"secret")
    (root / "private/secret").chmod(0o600)
    (root / "private").chmod(0o700)
    deep = root / "deep"
    for _ in range(12):
        deep /= "d" * 40
    deep.mkdir(parents=True)
    (deep / ("long-" + "n" * 200)).write_bytes(b"a long name")
    (root / "link-to-long").symlink_to("t" * 300)
    with open(os.fsencode(root) + b"/not-utf8-\xff\xfe", "wb") as file:
        file.write(b"raw name")
    (root / "ünïcödé").write_bytes("grüße".encode())
    (root / "big").write_bytes(bytes(range(256)) * 12_000)
    with open(root / "sparse", "wb") as file:
        file.write(b"head")
        file.seek(3 << 20)
        file.write(b"tail")
        file.truncate(5 << 20)
    (root / "first").write_bytes(b"linked content")
    os.link(root / "first", root / "bin/second")
    os.link(root / "first", root / "third")
    os.mkfifo(root / "fifo")
    (root / "setuid").write_bytes(b"x")
    (root / "setuid").chmod(0o4755)
    os.setxattr(root / "bin/tool", "user.note", b"kept \0 whole")
    os.setxattr(root / "emptydir", "user.note", b"on a directory")
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "loop", 0o660 | stat.S_IFBLK, os.makedev(7, 0))
        os.chown(root / "bin/tool", 1234, 4321)
        os.chown(root / "bin/link", 12, 21, follow_symlinks=False)
        os.chown(root / "private", 70_000, 3_000_000)
        os.chmod(root / "setuid", 0o4755)
        # A version 2 capability: cap_net_bind_service, permitted and effective.
        os.setxattr(root / "bin/tool", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    for base, dirs, files in os.walk(root, topdown=False):
        for name in dirs + files:
            path = os.path.join(base, name)
            offset = sum(os.fsencode(name)) * 1_000_003
            os.utime(path, ns=(MTIME, MTIME + offset), follow_symlinks=False)
    os.utime(root, ns=(MTIME, MTIME))
    return root


def free_port() -> int:
    """Return a loopback port that nothing listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_noisy_tree(root: Path, *, files: int, large: int) -> Path:
    """Make a varied tree, with so many files of 20 KB besides and one of `large` bytes; those do not compress."""
    make_varied_tree(root)
    noise = random.Random(7)
    (root / "many").mkdir()
    for number in range(files):
        (root / f"many/file{number:03}").write_bytes(noise.randbytes(20_000))
    (root / "large").write_bytes(noise.randbytes(large))
    return root
