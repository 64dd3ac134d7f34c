"""Extended attributes: which ones belong to a tree, and reading and writing them safely.

An object is named by the descriptor of its directory and its name in it, or by its own descriptor; no
call here follows a symlink.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from shipway.errors import Invalid

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The attributes that mark a directory of an overlay layer as opaque; the second in user namespaces."""

_NONE: dict[str, bytes] = {}
_PRIVILEGED = ("trusted.", "security.")
_NO_SUPPORT = (errno.ENOTSUP, errno.ENOSYS)
_GONE = (errno.ENODATA, *_NO_SUPPORT)


def is_kept(name: str) -> bool:
    """Whether an attribute is part of a tree.

    `user.*`, `trusted.*`, POSIX ACLs and file capabilities are; overlayfs' own
    marks and labels that belong to a machine (`security.selinux`, …) are not.
    """
    if name.startswith("user."):
        return not name.startswith("user.overlay.")
    if name.startswith("trusted."):
        return not name.startswith("trusted.overlay.")
    return name == "security.capability" or name.startswith("system.posix_acl_")


def child(dir_fd: int, name: str) -> str:
    """Return a path for calls without `dir_fd`: the last component is never followed by the calls here."""
    return f"/proc/self/fd/{dir_fd}/{name}"


def read(where: str | int) -> dict[str, bytes]:
    """Return the kept attributes of a descriptor or of a path from `child`.

    A file system without attributes has none. The mapping must not be changed.
    """
    try:
        names = os.listxattr(where) if isinstance(where, int) else os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_SUPPORT:
            return _NONE
        raise
    if not names:
        return _NONE
    values = {name: get(where, name) for name in sorted(names) if is_kept(name)}
    return {name: value for name, value in values.items() if value is not None}


def get(where: str | int, name: str) -> bytes | None:
    """Return one attribute's value, or None where there is none."""
    try:
        return os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def is_opaque(where: str | int) -> bool:
    """Whether a directory of an overlay layer hides what lower layers have in it."""
    return any(get(where, name) == b"y" for name in OPAQUE)


def write(where: str | int, xattrs: Mapping[str, bytes], *, privileged: bool, path: str) -> None:
    """Set the kept ones of `xattrs`; without privileges those that need them are left out.

    Raises `Invalid`, naming the attribute and `path`, if the file system has no room for it or no such
    attributes at all.
    """
    for name, value in xattrs.items():
        if not is_kept(name) or (not privileged and name.startswith(_PRIVILEGED)):
            continue
        try:
            if isinstance(where, int):
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno in (*_NO_SUPPORT, errno.EINVAL, errno.E2BIG, errno.ERANGE, errno.EPERM):
                raise Invalid(
                    f"the file system refuses the extended attribute {name!r}: {error.strerror}", where=path
                ) from error
            raise


def remove_others(where: str | int, keep: Mapping[str, bytes], *, privileged: bool) -> None:
    """Remove the kept attributes of an object that `keep` does not name."""
    for name in read(where):
        if name in keep or (not privileged and name.startswith(_PRIVILEGED)):
            continue
        if isinstance(where, int):
            os.removexattr(where, name)
        else:
            os.removexattr(where, name, follow_symlinks=False)
