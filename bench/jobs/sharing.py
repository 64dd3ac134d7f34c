"""Several processes that work in one store at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import pipeline, quietly, shipway, worker
from bench.model import Job, Sample, Side, WrongResult
from bench.scene import Scene

FILES = 300
REFS = 40
OURS = "shipway"
_TOGETHER = 'n=$1; shift; pids=; for i in $(seq $n); do "$@" > /dev/null & pids="$pids $!"; done; wait_all $pids'
_WAIT = "wait_all() { for pid in $@; do wait $pid; done; }; "


def _together(processes: int, *argv: str | Path) -> Sample:
    """Run so many processes of one kind at the same time, all of which have to succeed."""
    return pipeline(_WAIT + _TOGETHER, str(processes), *argv)


@contextmanager
def _commits(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", FILES)
    with scene.room("together") as room:
        root = room / "root"

        def before() -> None:
            scene.renew(root)
            quietly(shipway(root, "ls"))

        def check() -> None:
            listed = json.loads(quietly([*shipway(root, "--json"), "ls"]))
            if len(listed) != work * REFS:
                raise WrongResult(f"{len(listed)} refs of {work * REFS}")
            quietly(shipway(root, "verify"))

        ours = worker("make-records", root=root, tree=tree.path, count=REFS)
        yield [
            Side(OURS, "shipway", lambda: _together(work, *ours), before, check),
            Side(
                "floor: cp -a",
                "floor",
                _copies(tree.path, room / "copies", work),
                partial(scene.renew, room / "copies"),
                needs=("cp",),
            ),
        ]


def _copies(tree: Path, target: Path, work: int) -> Callable[[], Sample]:
    script = f"for n in $(seq {REFS}); do cp -a $0 $1/$BASHPID-$n; done"
    return lambda: _together(work, "bash", "-c", script, tree, target)


JOBS = (
    Job(
        "processes",
        f"So many processes commit {REFS} trees of {FILES} files each to one store at the same time",
        "processes",
        (1, 2, 4, 8),
        (4,),
        _commits,
    ),
)
