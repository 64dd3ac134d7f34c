"""Progress bars on standard error, when it is a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from shipway.cli.text import size, visible
from shipway.progress import Overall, Progress, ProgressCallback, Tally

ITEM_WIDTH = 16
REST = 67
"""Columns that all but the bar takes, and some to spare."""
MAX_ITEMS = 8
"""Items of a task that have a line of their own at a time."""
_PAUSE = 0.05
"""Seconds between two times that a bar is told of its progress: small files come faster than anybody sees."""


@contextmanager
def drawn() -> Iterator[ProgressCallback]:
    """Yield a callback that keeps a line for each task, and one for each of its items that is on its way.

    What is left on leaving is the line of each task; after an exception nothing.
    """
    with _Lines(console=Console(stderr=True), refresh_per_second=8) as lines:
        try:
            yield lines.take
            lines.finish()
        except BaseException:
            lines.live.transient = True
            raise


class _Lines(Bars):
    """The lines on the screen: those of tasks first, then those of items."""

    def __init__(self, console: Console, refresh_per_second: float) -> None:
        # Short of the full width, so that a ^C that the terminal echoes starts no line that nobody counts.
        bar = max(5, min(40, console.width - REST))
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=bar),
            TaskProgressColumn(),
            _Amount(table_column=Column(no_wrap=True, justify="right")),
            _Rate(table_column=Column(no_wrap=True, justify="right")),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            refresh_per_second=refresh_per_second,
        )
        self._guard = threading.Lock()
        self._tally = Tally()
        self._overall: dict[str, Overall] = {}
        self._drawn: dict[str, TaskID] = {}
        self._items: dict[tuple[str, str], TaskID] = {}
        self._told: dict[tuple[str, str], float] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the lines in their order; rich draws them in that of their appearance."""
        yield self.make_tasks_table(sorted(self.tasks, key=lambda task: (bool(task.fields["of"]), task.id)))

    def take(self, progress: Progress) -> None:
        """Draw an event."""
        with self._guard:
            overall = self._overall[progress.task] = self._tally.add(progress)
            name, now = (progress.task, progress.item), time.monotonic()
            ends = progress.done == progress.total
            if not ends and now - self._told.get(name, -_PAUSE) < _PAUSE:
                return
            self._told[name] = now
            self._draw(overall, progress)
            if overall.items > 1:
                self._draw_item(name, progress, ends=ends)

    def finish(self) -> None:
        """Draw what was held back, and leave the lines of tasks alone on the screen."""
        with self._guard:
            for task in self._items.values():
                self.remove_task(task)
            for name, overall in self._overall.items():
                self.update(self._drawn[name], completed=overall.done, total=overall.total)

    def _draw(self, overall: Overall, progress: Progress) -> None:
        label = f"{overall.task} {overall.finished} of {overall.items}" if overall.items > 1 else _label(progress)
        if overall.task not in self._drawn:
            self._drawn[overall.task] = self.add_task(label, total=overall.total, unit=progress.unit, of="", rate=0.0)
        self.update(
            self._drawn[overall.task],
            description=label,
            completed=overall.done,
            total=overall.total,
            rate=overall.done / overall.elapsed if overall.done == overall.total and overall.elapsed else overall.rate,
        )

    def _draw_item(self, name: tuple[str, str], progress: Progress, *, ends: bool) -> None:
        if ends:
            if name in self._items:
                self.remove_task(self._items.pop(name))
        elif name in self._items:
            self.update(self._items[name], completed=progress.done, total=progress.total)
        elif progress.done and len(self._items) < MAX_ITEMS:
            label = "  " + _label(progress).removeprefix(progress.task + " ")
            self._items[name] = self.add_task(
                label, completed=progress.done, total=progress.total, unit=progress.unit, of=progress.task, rate=0.0
            )


class _Amount(ProgressColumn):
    """How much is done, and of how much."""

    def render(self, task: Task) -> Text:
        show = size if task.fields["unit"] == "bytes" else str
        done = show(int(task.completed))
        return Text(
            done if task.total is None or task.finished else f"{done} of {show(int(task.total))}", justify="right"
        )


class _Rate(ProgressColumn):
    """How fast a task goes; of a finished one, how fast it went."""

    def render(self, task: Task) -> Text:
        rate = task.fields["rate"]
        if not rate:
            return Text("")
        return Text(f"{size(int(rate))}/s" if task.fields["unit"] == "bytes" else f"{rate:.0f}/s")


def _label(progress: Progress) -> str:
    item = visible(progress.item).removeprefix("sha256:")
    if len(item) > ITEM_WIDTH:
        item = "…" + item[-ITEM_WIDTH + 1 :] if "/" in item else item[:12]
    return f"{progress.task} {item}".rstrip()
