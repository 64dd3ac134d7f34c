"""How much a layer may claim: so that a small blob cannot fill a disk, or keep a processor busy for days."""

from __future__ import annotations

from dataclasses import dataclass

from shipway.errors import Invalid


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on each layer that comes from outside; what is beyond one is refused as `TooLarge`.

    The defaults are far above what build caches hold. A layer may stay below them and still not fit the disk.
    """

    size: int = 256 << 30
    """Most bytes that it may inflate to, and most that its files may have together, holes too."""
    entries: int = 4_000_000
    """Most entries."""
    ratio: int = 1000
    """How many times its own size it may inflate to, once that is more than a gibibyte; zeros, so holes, count not."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise Invalid(f"a limit of {getattr(self, name)}", where=name, todo="give a number above 0")
