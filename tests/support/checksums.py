"""Content checksums worked out from a directory of this machine, in the plainest way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from shipway.trees.checksum import Checksums, header, record
from shipway.trees.entry import Entry
from shipway.trees.merged import MergedTree

NOTHING = "sha256:" + sha256().hexdigest()


def plain_checksum(path: Path) -> str:
    """Return the checksum of what is at `path`, a symlink as it is."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        return plain_record(path)
    listed = b"\0" + plain_record(path).encode()
    for name in sorted(os.listdir(os.fsencode(path))):
        listed += b"\0" + name + plain_checksum(path / os.fsdecode(name)).encode()
    return "sha256:" + sha256(listed).hexdigest()


def plain_record(path: Path) -> str:
    """Return the digest of the record of what is at `path`, of a directory its header's."""
    st = path.lstat()
    kind = stat.S_IFMT(st.st_mode)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    regular = kind == stat.S_IFREG
    flag = {
        stat.S_IFREG: "0",
        stat.S_IFLNK: "2",
        stat.S_IFCHR: "3",
        stat.S_IFBLK: "4",
        stat.S_IFDIR: "5",
        stat.S_IFIFO: "6",
    }[kind]
    fields = [
        ("name", ""),
        ("mode", str(st.st_mode & 0o7777)),
        ("uid", str(st.st_uid)),
        ("gid", str(st.st_gid)),
        ("size", str(st.st_size if regular else 0)),
        ("typeflag", flag),
        ("linkname", os.readlink(path) if kind == stat.S_IFLNK else ""),
        ("uname", ""),
        ("gname", ""),
        ("devmajor", str(os.major(st.st_rdev) if device else 0)),
        ("devminor", str(os.minor(st.st_rdev) if device else 0)),
    ]
    data = b"".join(os.fsencode(key + value) for key, value in fields)
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name == "security.capability" or name.startswith(("user.", "trusted.")):
            data += os.fsencode(name) + os.getxattr(path, name, follow_symlinks=False)
    return "sha256:" + sha256(data + (path.read_bytes() if regular else b"")).hexdigest()


def listed(*records: tuple[str, str]) -> str:
    """Return the digest of a list of names (with `/` before each component) and digests."""
    data = b"".join((os.fsencode(name).replace(b"/", b"\0") or b"\0") + digest.encode() for name, digest in records)
    return "sha256:" + sha256(data).hexdigest()


class CountedTree:
    """A tree made of rows (path, kind, data), and how often the record of each file of it was asked for."""

    def __init__(self, rows: list[list[str]]) -> None:
        self.contents = {row[0]: row[2].encode() for row in rows if row[1] == "file"}
        self.reads: list[str] = []
        self.tree = MergedTree([[Entry(path="", kind="dir", mode=0o755), *(_entry(*row) for row in rows)]])
        self.checksums = Checksums(self.tree, self._records)

    def _records(self, entries: Iterable[Entry]) -> Iterator[str]:
        for entry in entries:
            if entry.size:
                self.reads.append(entry.path)
            yield record(header(entry), self.contents.get(entry.path, b""), entry.size, entry.path)


def _entry(path: str, kind: str, data: str = "") -> Entry:
    if kind == "dir":
        return Entry(path=path, kind="dir", mode=0o755)
    if kind == "symlink":
        return Entry(path=path, kind="symlink", mode=0o777, link=data)
    return Entry(path=path, kind="reg", mode=0o644, size=len(data.encode()))
