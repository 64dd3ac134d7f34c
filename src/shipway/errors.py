"""Every way Shipway fails, as a small tree of types.

A message answers three questions in one line: *where* it happened (a path, a
reference, a digest), *what* went wrong, and *what to do* about it. Programs
decide on the type; people read the line. No message ever holds a credential.
"""

from __future__ import annotations


class ShipwayError(Exception):
    """Anything Shipway refuses or fails to do; the root of the tree.

    `exit_code` is what the command line exits with, so scripts can tell the
    kinds apart without reading the text.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        """Hold the three parts of the line; `where` and `todo` may be empty."""
        self.what = what
        self.where = where
        self.todo = todo
        super().__init__(what, where, todo)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{line}; {self.todo}" if self.todo else line
        return line.replace("\n", " ")


class Invalid(ShipwayError):
    """The request makes no sense as it stands; repeating it cannot help."""

    exit_code = 2


class UnknownMediaType(Invalid):
    """A manifest or layer of a kind that Shipway cannot read."""


class NotFound(ShipwayError):
    """The thing that was named does not exist."""

    exit_code = 3


class RepositoryNotFound(NotFound):
    """The registry has no such repository, or hides it from us."""


class Missing(NotFound):
    """Something is named by what is there, and is gone from where it should be: a blob of an image, for one."""


class Locked(ShipwayError):
    """Somebody else holds it; try again when they have let go."""

    exit_code = 4


class Corrupt(ShipwayError):
    """Bytes are not what their digest, size or format promised."""

    exit_code = 5


class DigestMismatch(Corrupt):
    """Content hashes to another digest than the one it was asked for by."""


class SizeMismatch(Corrupt):
    """Content is longer than its descriptor says."""


class Truncated(Corrupt):
    """Content ended before its descriptor or its own format said it would."""


class TooLarge(Corrupt):
    """A layer that is, or claims to be, larger than `Limits` allow."""


class UnsafeEntry(Corrupt):
    """An archive entry that would reach outside the tree it unpacks into."""


class Unauthorized(ShipwayError):
    """The server wants credentials, or other ones than it was given."""

    exit_code = 6


class Unavailable(ShipwayError):
    """A server or a service of this machine cannot be had right now."""

    exit_code = 7


class Conflict(ShipwayError):
    """Somebody else was first: what a write was conditional on is not so; look at what is there now."""

    exit_code = 9


class NoSpace(ShipwayError):
    """The disk (or its quota) is full; nothing half-written was kept."""

    exit_code = 8
