"""demo: the main job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.cli import text
from shipway.cli.session import InSession
from shipway.errors import Corrupt, ShipwayError

if TYPE_CHECKING:
    from shipway.demo.job import Announce
    from shipway.demo.report import Report

SHOWN_MISMATCHES = 10


def demo(*, tree: Path | None = None, keep: bool = False, session: InSession) -> None:
    """Show the whole of it on real files: two workers, one connection, everything compared.

    Args:
        tree: The directory to use; a copy of this Python's standard library by default.
        keep: Keep the working directory, with both stores, and print where it is.
    """
    from shipway.demo.job import run  # noqa: PLC0415  the demo uses all of the library

    work = Path(tempfile.mkdtemp(prefix="shipway-demo-")) if keep else None
    with _spinner(quiet=session.json) as announce:
        report = run(tree, work=work, announce=announce)
    kept = {"kept": str(work) if work else None}
    session.show(_document(report) | kept, _lines(report, work))
    conclude(report)


def conclude(report: Report) -> None:
    """Raise `Corrupt` if anything arrived other than it left, `ShipwayError` for a figure that was missed."""
    if report.mismatches:
        more = f" and {len(report.mismatches) - 1} more" if len(report.mismatches) > 1 else ""
        raise Corrupt(f"what arrived is not what left: {report.mismatches[0]}{more}")
    for target in report.targets:
        if not target.met:
            raise ShipwayError(f"moved {target.moved} bytes, and the limit is {target.limit}", where=target.what)


def _document(report: Report) -> dict[str, object]:
    targets = [asdict(target) | {"met": target.met} for target in report.targets]
    return asdict(report) | {"targets": targets, "ok": report.ok}


def _lines(report: Report, work: Path | None) -> Iterator[str]:
    rows = [
        (
            step.worker,
            step.what,
            step.detail,
            text.size(step.moved) if step.moved is not None else "",
            f"of {text.size(step.total)}" if step.total is not None else "",
            f"{step.seconds:.2f}",
        )
        for step in report.steps
    ]
    yield f"{report.tree}: {text.plural(report.files, 'file')}, {text.size(report.size)}"
    yield f"snapshot drivers: A {report.drivers[0]}, B {report.drivers[1]}"
    yield ""
    header = ("worker", "step", "what", "moved", "", "seconds")
    yield from text.table(rows, header, right=("moved", "seconds"), always_header=True)
    yield ""
    for target in report.targets:
        verdict = "met" if target.met else "MISSED"
        yield f"{target.what}: {text.size(target.moved)}, limit {text.size(target.limit)}: {verdict}"
    for mismatch in report.mismatches[:SHOWN_MISMATCHES]:
        yield f"differs: {text.visible(mismatch)}"
    total = sum(step.seconds for step in report.steps)
    yield f"{'all equal' if not report.mismatches else 'NOT equal'}, {total:.1f} s in all"
    if work is not None:
        yield f"kept: {work} (worker A: --root {work}/a, worker B: --root {work}/b)"


@contextmanager
def _spinner(*, quiet: bool) -> Iterator[Announce]:
    from rich.console import Console  # noqa: PLC0415  only needed here
    from rich.markup import escape  # noqa: PLC0415  same

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda what: status.update(escape(text.visible(what)))
