"""Time and memory against work, as small SVG pictures with logarithmic axes: a straight line of slope 1 is linear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from bench.model import Report
from bench.stats import memory, seconds

_WIDTH, _HEIGHT = 720, 400
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 40, 210, 50
_COLOURS = ("#0b6", "#07c", "#c50", "#909", "#aa0", "#088", "#c09", "#555", "#60c", "#b30")
Lines = Mapping[str, Mapping[float, float]]


def plots(report: Report) -> Iterator[tuple[str, str]]:
    """Yield a name and an SVG document for each job that did several amounts of work, of time and of memory."""
    for job in dict.fromkeys(series.job for series in report.series):
        mine = [series for series in report.series if series.job == job]
        if len({series.work for series in mine}) < 2:  # noqa: PLR2004  a line needs two points
            continue
        times: dict[str, dict[float, float]] = {}
        bytes_taken: dict[str, dict[float, float]] = {}
        for series in mine:
            times.setdefault(series.side, {})[series.work] = seconds(series).median
            taken = memory(series)
            if taken:
                bytes_taken.setdefault(series.side, {})[series.work] = taken / 1e6
        yield job, plot(f"{job}: seconds", mine[0].unit, times)
        if bytes_taken:
            yield f"{job}-memory", plot(f"{job}: peak memory in MB", mine[0].unit, bytes_taken)


def plot(title: str, unit: str, lines: Lines) -> str:
    """Return an SVG document that shows some lines of points, all above 0, on logarithmic axes."""
    xs = [x for line in lines.values() for x in line]
    ys = [y for line in lines.values() for y in line.values()]
    across = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    upward = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 12}" text-anchor="end">{escape(unit)}</text>',
    ]
    for tick in across.ticks():
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in upward.ticks():
        y = upward(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(across(x), upward(y)) for x, y in sorted(line.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 8 + 18 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Where on the picture a value is."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        if most < least * 2:  # a line that is nearly flat shall look flat
            least, most = least / 2, most * 2
        self._low, self._high = math.log10(least), math.log10(most)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (math.log10(value) - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return round values: powers of ten, with 2 and 5 times them where there are few."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        factors = (1, 2, 5) if self._high - self._low < 2 else (1,)  # noqa: PLR2004  decades
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self._low <= math.log10(value) <= self._high]
