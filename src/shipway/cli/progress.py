"""Whether a command shows how far it is."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from shipway.cli.session import Session
from shipway.progress import ProgressCallback


def shown(session: Session) -> AbstractContextManager[ProgressCallback | None]:
    """Return a context manager that yields a `progress=` argument: bars on a terminal, else None."""
    if session.json or not sys.stderr.isatty():
        return nullcontext()
    from shipway.cli.bars import drawn  # noqa: PLC0415  rich takes 50 ms, and most runs draw nothing

    return drawn()
