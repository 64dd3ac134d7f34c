"""What a run of the demo found out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a worker did."""

    worker: str
    what: str
    detail: str
    seconds: float
    moved: int | None = None
    """Bytes that went over the network; None if the step does not use it."""
    total: int | None = None
    """What that is to be held against: all compressed bytes of the image."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to stay under, in bytes."""

    what: str
    moved: int
    limit: int

    @property
    def met(self) -> bool:
        """Whether it did."""
        return self.moved <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """All that happened; it went well if `ok`."""

    tree: str
    files: int
    size: int
    """Bytes of file content in the tree."""
    drivers: tuple[str, str]
    """The snapshot drivers of A and B."""
    steps: tuple[Step, ...]
    targets: tuple[Target, ...]
    mismatches: tuple[str, ...]
    """Every path that arrived other than it left, and how."""

    @property
    def ok(self) -> bool:
        """Whether everything arrived as it left and all targets were met."""
        return not self.mismatches and all(target.met for target in self.targets)
