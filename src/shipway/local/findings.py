"""Collecting what `verify` finds, and what was done about it."""

from __future__ import annotations

import errno
from collections.abc import Callable

from shipway.errors import NoSpace, ShipwayError, Unavailable
from shipway.refs import Finding

_OF_THE_MOMENT = {
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "EFBIG", "EAGAIN", "EACCES", "EPERM", "EBUSY")
}


def proves_damage(error: BaseException) -> bool:
    """Whether an error tells of what was looked at, and not of whoever looks: too few descriptors, no permission."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        return cause.errno not in _OF_THE_MOMENT
    return not isinstance(error, Unavailable | NoSpace)


class Findings:
    """What was found so far; with `repair` each is mended as it is found."""

    def __init__(self, *, repair: bool) -> None:
        """Start with nothing found."""
        self.repair = repair
        self.found: list[Finding] = []

    def add(self, kind: str, where: str, what: str, how: str = "", mend: Callable[[], object] | None = None) -> bool:
        """Note something; with `repair`, and a way to, mend it, which `how` describes. Return whether it is mended.

        A repair that fails leaves the finding as it is, with the reason.
        """
        repaired = ""
        if self.repair and mend is not None:
            try:
                mend()
                repaired = how
            except ShipwayError as error:
                what = f"{what}; not repaired: {error.what}"
        self.found.append(Finding(kind, where, what, repaired))
        return bool(repaired)
