"""Whether among many numbers one comes twice, found out on little more than the numbers themselves."""

from __future__ import annotations

from array import array

_PARTS = 256


class Seen:
    """Hash values, of 64 bits each, that were seen. A set of them would take ten times as much memory."""

    def __init__(self) -> None:
        """See nothing yet."""
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, value: int) -> None:
        """Take a value."""
        self._parts[value % _PARTS].append(value)

    def twice(self) -> bool:
        """Whether any value came twice. Their parts are looked at one by one, so that few are a set at a time."""
        return any(len(set(part)) != len(part) for part in self._parts)
