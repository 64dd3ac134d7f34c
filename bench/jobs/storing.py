"""A store that holds much: finding a key among many, counting and removing many refs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import command, inner, quietly, shipway, worker
from bench.model import Job, Sample, Side, Target, WrongResult
from bench.scene import Scene

OURS = "shipway"


@contextmanager
def _lookup(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("lookup") as room:
        root, database = room / "root", room / "rows.db"
        quietly(worker("put-keys", root=root, count=work))
        quietly(worker("make-rows", database=database, count=work))
        yield [
            Side(OURS, "shipway", lambda: inner(worker("lookup", root=root, count=work))[0]),
            Side("floor: SQLite", "floor", lambda: inner(worker("select", database=database, count=work))[0]),
        ]


@contextmanager
def _put(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("put") as room:
        root = room / "root"

        def check() -> None:
            listed = json.loads(quietly([*shipway(root, "--json"), "key", "ls"]))
            if len(listed) != work:
                raise WrongResult(f"{len(listed)} keys of {work}")

        def run() -> Sample:
            return inner(worker("put-keys", root=root, count=work))[0]

        yield [Side(OURS, "shipway", run, partial(scene.renew, root), check)]


def _records(scene: Scene, room: Path, count: int) -> Path:
    """Make a store with so many refs, each of a tree of one file."""
    (scene.renew(room / "one") / "file").write_text("text")
    quietly(worker("make-records", root=room / "root", tree=room / "one", count=count))
    return room / "root"


@contextmanager
def _du(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("du") as room:
        root = _records(scene, room, work)

        def run() -> Sample:
            sample, counted = inner(worker("disk-usage", root=root))
            if counted != work:
                raise WrongResult(f"{counted} records of {work}")
            return sample

        yield [
            Side(OURS, "shipway", run),
            Side("floor: du", "floor", lambda: command(["du", "-s", root]), needs=("du",)),
        ]


@contextmanager
def _dry_run(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("dry-run") as room:
        root = _records(scene, room, work)

        def run() -> Sample:
            sample, decided = inner(worker("prune-dry-run", root=root))
            if decided != work:
                raise WrongResult(f"{decided} decisions on {work} records")
            return sample

        yield [Side(OURS, "shipway", run)]


@contextmanager
def _reopen(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("reopen") as room:
        root = _records(scene, room, work)
        yield [Side(OURS, "shipway", lambda: inner(worker("reopen", root=root))[0])]


@contextmanager
def _prune(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("prune") as room:
        root, copy = _records(scene, room, work), room / "copy"

        def before() -> None:
            scene.renew(copy)
            quietly(["cp", "-a", f"{root}/.", copy])

        def run() -> Sample:
            sample, removed = inner(worker("prune", root=copy))
            if removed != work:
                raise WrongResult(f"{removed} records removed of {work}")
            return sample

        def check() -> None:
            left = list((copy / "snapshots").iterdir())
            if left:
                raise WrongResult(f"{len(left)} snapshots are left")

        yield [
            Side(OURS, "shipway", run, before, check),
            Side("floor: rm -r", "floor", lambda: command(["rm", "-r", copy / "snapshots"]), before, needs=("rm",)),
        ]


_RECORDS = (1_000, 10_000, 100_000)

JOBS = (
    Job(
        "lookup",
        "A key is looked up in a store, in random order: median of 2000 in one process",
        "keys",
        (1_000, 10_000, 100_000, 1_000_000),
        (1_000, 10_000),
        _lookup,
        targets=(Target(OURS, 30e-6),),
    ),
    Job("put", "Keys are put in a new store", "keys", (1_000, 10_000), (), _put),
    Job("du", "What each of many refs takes, and all of them", "records", _RECORDS, (1_000,), _du, rounds=3),
    Job("dry-run", "What a prune to half the size would do to many refs", "records", _RECORDS, (1_000,), _dry_run),
    Job("reopen", "A store of many refs is opened and closed", "records", _RECORDS, (1_000,), _reopen),
    Job("prune", "All of many refs are removed", "records", _RECORDS, (1_000,), _prune, rounds=3),
)
