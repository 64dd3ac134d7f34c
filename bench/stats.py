"""Medians, spread, and ratios pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from bench.model import Series


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and the lowest and highest of them."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return median, least and greatest of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def seconds(series: Series) -> Spread:
    """Return how long the runs took."""
    return spread(sample.seconds for sample in series.samples)


def cpu(series: Series) -> float | None:
    """Return the median of the CPU seconds, if they are known."""
    known = [sample.cpu for sample in series.samples if sample.cpu is not None]
    return statistics.median(known) if known else None


def memory(series: Series) -> int | None:
    """Return the most bytes that any run took, if known."""
    return max((sample.memory for sample in series.samples if sample.memory is not None), default=None)


def ratio(ours: Series, theirs: Series) -> Spread:
    """Return the time of `ours` over that of `theirs`, each turn for itself: below 1 is faster.

    What the machine did to one turn it did to both, so the spread of this is smaller than that of the times.
    """
    pairs = zip(ours.samples, theirs.samples, strict=True)
    return spread(one.seconds / max(other.seconds, 1e-9) for one, other in pairs)


def growth(points: Mapping[int, float]) -> float | None:
    """Return the exponent with which time grows with work, between the two largest amounts: 1 is linear.

    None where there are fewer than two.
    """
    if len(points) < 2:  # noqa: PLR2004  a slope needs two points
        return None
    (less, short), (more, long) = sorted(points.items())[-2:]
    return log(long / short) / log(more / less) if short > 0 and long > 0 else None


def find(series: Sequence[Series], job: str, work: int, side: str) -> Series | None:
    """Return the series of one side, if it was measured."""
    return next((one for one in series if (one.job, one.work, one.side) == (job, work, side)), None)
