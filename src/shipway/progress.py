"""How long-running calls tell their caller how far they are.

Each call that can take long has a `progress` parameter: a callable that is
handed a `Progress` now and then, from the thread that does the work. Raising
from it (or `KeyboardInterrupt`) stops the work promptly, leaves nothing
half-made behind, and comes out of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a task: `done` of `total` bytes, `total` None if unknown.

    `task` says what is being done ("pack", "pull", "push", "extract", …) and
    `item` what to (a digest, a path); one (task, item) pair is one bar.
    """

    task: str
    item: str
    done: int
    total: int | None


ProgressCallback = Callable[[Progress], None]
