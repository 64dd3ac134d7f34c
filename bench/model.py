"""What a benchmark is made of: jobs, the sides that do them, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from bench.scene import Scene

Kind = Literal["shipway", "peer", "floor"]


class Missing(Exception):
    """A program, a right or a feature of the machine that is not there; what needs it is skipped, and said so."""


class WrongResult(Exception):
    """A side did not do what it was asked: its time says nothing."""


class Sample(msgspec.Struct, frozen=True):
    """One run of one side."""

    seconds: float
    cpu: float | None
    """Seconds of user and system time of all processes; those of the server at the other end do not count."""
    memory: int | None
    """Bytes: the most that the processes alive at one time had resident, as sampled."""


class Series(msgspec.Struct, frozen=True):
    """All runs of one side, doing one amount of work; run N of each side of a job belongs to the same turn."""

    job: str
    work: int
    unit: str
    side: str
    kind: Kind
    samples: tuple[Sample, ...]


class Skipped(msgspec.Struct, frozen=True):
    """What was not measured, and why; `failed` if it should have been."""

    job: str
    work: int
    side: str
    why: str
    failed: bool


class Report(msgspec.Struct):
    """One run of the benchmarks, as far as it got."""

    format: int
    machine: dict[str, str]
    settings: dict[str, str]
    versions: dict[str, str]
    series: tuple[Series, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def nothing() -> None:
    """Do nothing: a side that needs no preparation, or whose run has checked itself."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do a job.

    `before` puts everything in place and is not measured, `run` does the job, `check` raises `WrongResult`. `needs`
    are programs, or `root`.
    """

    name: str
    kind: Kind
    run: Callable[[], Sample]
    before: Callable[[], object] = nothing
    check: Callable[[], object] = nothing
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at: the time of `side` over that of `against`, or its seconds or bytes if that is empty."""

    side: str
    at_most: float
    against: str = ""
    what: Literal["time", "memory"] = "time"


@dataclass(frozen=True, slots=True)
class Job:
    """Work of one kind, done in several amounts by several sides.

    `sides` makes what one amount of work needs and yields the sides that do it; what it started is gone afterwards.
    """

    name: str
    about: str
    unit: str
    works: tuple[int, ...]
    quick: tuple[int, ...]
    sides: Callable[[Scene, int], AbstractContextManager[Sequence[Side]]]
    needs: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    rounds: int | None = None
    """Fewer than usual, where a run takes minutes."""
