"""Whether a later run is worse than an earlier one, by ratios, not by times: machines differ, pairs do not."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.model import Report, Series
from bench.stats import Spread, find, ratio

FORMAT = 1
TOLERANCE = 0.25
"""How much a ratio may rise: turns in one run differ by about 10 %, runs on one machine by about 15 %."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a job's ratios went from one run to another: 1.1 is 10 % slower beside the others than it was."""

    job: str
    work: int
    side: str
    factor: float
    worse: bool


def read(path: Path) -> Report:
    """Return the report in a file; `ValueError` for anything else, and for one of another format."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not a report of these benchmarks: {error}") from error
    if report.format != FORMAT:
        raise ValueError(f"{path}: a report of format {report.format}; run the benchmarks again")
    return report


def compare(old: Report, new: Report, tolerance: float = TOLERANCE) -> list[Change]:
    """Return what became of each side of Shipway that both runs measured beside the same others.

    A side has a ratio to each other side. How each of them changed says a little about that other one too, so the
    median counts: one peer that got faster is no regression, one that is slower in all pairs is. It is *worse* when
    that median is above 1 + `tolerance` and the best turn of the new run is above the old median as well, for at
    least half of the others: noise alone does not do that.
    """
    return [
        change for series in new.series if series.kind == "shipway" for change in _change(old, new, series, tolerance)
    ]


def _change(old: Report, new: Report, ours: Series, tolerance: float) -> Iterator[Change]:
    before = find(old.series, ours.job, ours.work, ours.side)
    if before is None:
        return
    pairs = list(_ratios(old, new, before, ours))
    if not pairs:
        return
    factor = statistics.median(later.median / earlier.median for earlier, later in pairs)
    surely = sum(later.low > earlier.median for earlier, later in pairs) * 2 >= len(pairs)
    yield Change(ours.job, ours.work, ours.side, factor, surely and factor > 1 + tolerance)


def _ratios(old: Report, new: Report, before: Series, after: Series) -> Iterator[tuple[Spread, Spread]]:
    for other in new.series:
        if (other.job, other.work) != (after.job, after.work) or other.kind == "shipway":
            continue
        earlier = find(old.series, other.job, other.work, other.side)
        if earlier is not None:
            yield ratio(before, earlier), ratio(after, other)
