"""The values that refs and stores take and give: what was done, moved, found, and is known.

They are part of the contracts, so `shipway.refs` has them too.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal


class CachePolicy(StrEnum):
    """What happens to a mutable ref that is released without a commit."""

    DEFAULT = "default"
    """It is removed at once."""
    RETAIN = "retain"
    """It stays, and can be taken up with `Cache.get_mutable(id)`."""


class RecordType(StrEnum):
    """What a record was made for; the names are BuildKit's."""

    INTERNAL = "internal"
    FRONTEND = "frontend"
    LOCAL = "source.local"
    GIT_CHECKOUT = "source.git.checkout"
    CACHE_MOUNT = "exec.cachemount"
    REGULAR = "regular"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, ready for mount(8): `mount -t TYPE -o OPTIONS SOURCE TARGET`.

    `target` is relative to where the whole tree is mounted; empty for the tree itself.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the network: requests, and bytes of bodies in each direction."""

    requests: int = 0
    received: int = 0
    sent: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        """Return both together."""
        return Traffic(self.requests + other.requests, self.received + other.received, self.sent + other.sent)

    def __sub__(self, other: Traffic) -> Traffic:
        """Return what came on top of `other`."""
        return Traffic(self.requests - other.requests, self.received - other.received, self.sent - other.sent)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an `extract` did: entries written, bytes of file content, and what it moved for that."""

    entries: int
    size: int
    skipped: tuple[str, ...] = ()
    """Paths of devices that could not be made without privileges."""
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a `push` did: where the image is now, and what was moved to get it there."""

    reference: str
    digest: str
    layers: int
    layers_moved: int
    traffic: Traffic


FILE_TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
"""What stat(2) has in `st_mode` for each kind of a `FileStat`."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of one object of a tree without its content; equal for a local and a remote ref of one tree."""

    path: str
    """From the tree's root, with a leading slash; bytes that are not UTF-8 are surrogate escapes."""
    kind: Literal["dir", "reg", "symlink", "char", "block", "fifo"]
    mode: int
    """Permission bits with setuid, setgid and sticky."""
    uid: int
    gid: int
    size: int
    """Bytes of content; 0 for everything but `reg`."""
    mtime_ns: int
    link: str = ""
    """A symlink's target, as written."""
    dev: tuple[int, int] = (0, 0)
    """Major and minor number of a `char` or `block` device."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `verify()` found to be wrong with a store."""

    kind: str
    """`database`, `row`, `lease`, `blob`, `snapshot`, `record` or `leftover`."""
    where: str
    """An id, a digest, a table, or a path below the store's root."""
    what: str
    """What is wrong, in a line for people."""
    repaired: str = ""
    """How it was repaired; empty if it was not."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One record as `disk_usage()` reports it. Sizes in bytes, times in UTC."""

    id: str
    parents: tuple[str, ...]
    mutable: bool
    in_use: bool
    size: int
    created: datetime
    last_used: datetime | None
    usage_count: int
    description: str
    record_type: RecordType
    shared: bool


class Verdict(StrEnum):
    """What a prune does with a record."""

    REMOVE = "remove"
    """It goes, with all it has on disk."""
    DROP_BLOBS = "drop-blobs"
    """Its packed layer goes, which can be made again of the files; the ref stays."""
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class PruneDecision(UsageRecord):
    """A record, what a prune did with it or would do, and why."""

    verdict: Verdict
    reason: str
    freed: int
    """Bytes; a blob that another record shares is freed with the last of them."""
