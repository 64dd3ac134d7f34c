"""The tables that people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench.model import Job, Report, Series, Target
from bench.stats import Spread, cpu, find, growth, memory, ratio, seconds

_MEGA = 1e6


def markdown(report: Report, jobs: Iterable[Job]) -> str:
    """Return a report as Markdown: for each job a table, what became of its targets, and how it grows."""
    lines = ["# Benchmarks", "", *_facts(report)]
    for job in jobs:
        mine = [series for series in report.series if series.job == job.name]
        if not mine:
            continue
        lines += ["", f"## {job.name}", "", f"{job.about}.", ""]
        for work in dict.fromkeys(series.work for series in mine):
            lines += _table([series for series in mine if series.work == work])
        lines += [*_targets(job, mine), *_growth(mine)]
    if report.skipped:
        lines += ["", "## Not measured", ""]
        lines += [f"- {one.job} {one.work}, {one.side or 'all'}: {_escaped(one.why)}" for one in report.skipped]
    return "\n".join(lines) + "\n"


def _facts(report: Report) -> Iterator[str]:
    for facts in (report.machine, report.settings, report.versions):
        yield "- " + "; ".join(f"{name} {_escaped(value)}" for name, value in facts.items())


def _table(sides: Sequence[Series]) -> Iterator[str]:
    work, unit = sides[0].work, sides[0].unit
    ours = next((one for one in sides if one.kind == "shipway"), None)
    yield f"| {work:,} {unit} | median | low … high | CPU s | peak MB | {ours.side if ours else '-'} / this |"
    yield "|---|---|---|---|---|---|"
    for side in sides:
        time, used, taken = seconds(side), cpu(side), memory(side)
        pairs = _spread(ratio(ours, side)) if ours and ours is not side else ""
        yield (
            f"| {_escaped(side.side)} | {_time(time.median)} | {_time(time.low)} … {_time(time.high)} "
            f"| {'' if used is None else f'{used:.3g}'} | {'' if taken is None else f'{taken / _MEGA:.0f}'} | {pairs} |"
        )
    yield ""


def _targets(job: Job, mine: Sequence[Series]) -> Iterator[str]:
    """Say of each target whether it was met with the largest amount of work that was measured."""
    work = max(series.work for series in mine)
    for target in job.targets:
        ours = find(mine, job.name, work, target.side)
        if ours is None:
            continue
        line = _memory_target(target, ours) if target.what == "memory" else _time_target(target, ours, mine)
        if line:
            yield line


def _memory_target(target: Target, ours: Series) -> str:
    taken = memory(ours)
    if taken is None:
        return ""
    met = "met" if taken <= target.at_most else "MISSED"
    return f"- {met}: {target.side} takes {taken / _MEGA:.0f} MB, aimed at {target.at_most / _MEGA:.0f}"


def _time_target(target: Target, ours: Series, mine: Sequence[Series]) -> str:
    if not target.against:
        actual = seconds(ours).median
        met = "met" if actual <= target.at_most else "MISSED"
        return f"- {met}: {target.side} takes {_time(actual)}, aimed at {_time(target.at_most)}"
    other = find(mine, ours.job, ours.work, target.against)
    if other is None:
        return f"- open: {target.side} / {_escaped(target.against)}, which was not measured"
    actual = ratio(ours, other).median
    met = "met" if actual <= target.at_most else "MISSED"
    return f"- {met}: {target.side} / {_escaped(target.against)} is {actual:.3g}, aimed at {target.at_most:.3g}"


def _growth(mine: Sequence[Series]) -> Iterator[str]:
    for side in dict.fromkeys(series.side for series in mine if series.kind == "shipway"):
        exponent = growth({one.work: seconds(one).median for one in mine if one.side == side})
        if exponent is not None:
            yield f"- {side}: time grows as work to the power {exponent:.2f}"


def _time(value: float) -> str:
    if value < 1e-3:  # noqa: PLR2004  units of time
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.2f} s"


def _spread(value: Spread) -> str:
    return f"**{value.median:.3g}** ({value.low:.3g} … {value.high:.3g})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
