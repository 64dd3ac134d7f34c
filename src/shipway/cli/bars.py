"""Progress bars on standard error, when it is a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from shipway.cli.text import visible
from shipway.progress import Progress, ProgressCallback

ITEM_WIDTH = 24


@contextmanager
def drawn() -> Iterator[ProgressCallback]:
    """Yield a callback that keeps a bar for each task and item; they vanish on leaving."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    known: dict[tuple[str, str], TaskID] = {}
    lock = threading.Lock()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def callback(progress: Progress) -> None:
            name = (progress.task, progress.item)
            with lock:
                if name not in known:
                    known[name] = bars.add_task(_label(progress), total=progress.total)
            bars.update(known[name], completed=progress.done, total=progress.total)

        yield callback


def _label(progress: Progress) -> str:
    item = visible(progress.item).removeprefix("sha256:")
    if len(item) > ITEM_WIDTH:
        item = "…" + item[-ITEM_WIDTH + 1 :] if "/" in item else item[:12]
    return f"{progress.task} {item}"
