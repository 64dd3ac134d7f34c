"""How long it takes until the program or the library is there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.measure import command, inner
from bench.model import Job, Side, Target
from bench.scene import Scene

_TIMED = (
    "import time; begun = time.perf_counter(); {0}; seconds = time.perf_counter() - begun; "
    'import json; print(json.dumps({{"seconds": seconds}}))'
)
IMPORT = "import shipway"
CACHE = "import shipway; shipway.Cache"
HELP = "shipway --help"


@contextmanager
def _imports(_scene: Scene, _work: int) -> Iterator[Sequence[Side]]:
    yield [
        Side(IMPORT, "shipway", lambda: inner([sys.executable, "-c", _TIMED.format(IMPORT)])[0]),
        Side(CACHE, "shipway", lambda: inner([sys.executable, "-c", _TIMED.format(CACHE)])[0]),
        Side(
            "floor: import sqlite3, hashlib, json",
            "floor",
            lambda: inner([sys.executable, "-c", _TIMED.format("import sqlite3, hashlib, json")])[0],
        ),
    ]


@contextmanager
def _starts(scene: Scene, _work: int) -> Iterator[Sequence[Side]]:
    with scene.room("start") as room:
        program = Path(sys.executable).with_name("shipway")
        listing: list[str | Path] = [program, "--root", room / "root", "ls"]
        yield [
            Side(HELP, "shipway", lambda: command([program, "--help"])),
            Side("shipway ls", "shipway", lambda: command(listing)),
            Side("floor: python -c pass", "floor", lambda: command([sys.executable, "-c", "pass"])),
            Side("borg --help", "peer", lambda: command(["borg", "--help"]), needs=("borg",)),
            Side("restic --help", "peer", lambda: command(["restic", "--help"]), needs=("restic",)),
            Side("skopeo --help", "peer", lambda: command(["skopeo", "--help"]), needs=("skopeo",)),
        ]


JOBS = (
    Job(
        "import",
        "The package is imported; with `Cache`, which brings what a program uses",
        "process",
        (1,),
        (1,),
        _imports,
        targets=(Target(IMPORT, 60e-3), Target(CACHE, 60e-3)),
    ),
    Job(
        "start",
        "The command line starts and ends",
        "process",
        (1,),
        (1,),
        _starts,
        targets=(Target(HELP, 150e-3),),
    ),
)
