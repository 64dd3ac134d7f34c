"""A directory becomes a ref; a small change of a big tree becomes one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from bench import archivers, trees
from bench.archivers import Archiver
from bench.fingerprint import ALL, fingerprint, same
from bench.jobs.kinds import KINDS
from bench.measure import command, inner, quietly, shipway, worker
from bench.model import Job, Sample, Side, Target
from bench.scene import Scene
from bench.store import check_ref, commit, prune

OURS = "shipway"


@contextmanager
def _whole(kind: str, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree(kind, work)
    with scene.room("commit") as room:
        root, copy = room / "root", room / "copy"

        def check() -> None:
            listed = json.loads(quietly([*shipway(root, "--json"), "ls"]))
            check_ref(scene, root, listed[0]["id"], tree, ALL)

        peers = archivers.chosen(scene, *_uncompressed(), archivers.casync(), archivers.rsync())
        yield [
            Side(
                OURS,
                "shipway",
                lambda: command(shipway(root, "commit", tree.path)),
                partial(scene.renew, root),
                check,
            ),
            *(archivers.saving(one, tree, room, scene) for one in peers),
            Side(
                "floor: cp -a",
                "floor",
                lambda: command(["cp", "-a", f"{tree.path}/.", copy]),
                partial(scene.renew, copy),
                lambda: same(tree.fingerprint(), copy),
                ("cp",),
            ),
        ]


@contextmanager
def _change(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    """One file of a big tree changes: another content each time, the same for all sides."""
    tree = scene.tree("small", work)
    with scene.room("change") as room:
        root, changed = scene.renew(room / "root"), room / "changed"
        quietly(["cp", "-a", tree.path, changed])
        base = commit(root, tree.path)
        quietly(shipway(root, "key", "put", "base", base))  # finalized: what one builds on is
        salts = count(1)
        yield [
            _ours(scene, root, base, changed, salts, finalize=False),
            _ours(scene, root, base, changed, salts, finalize=True),
            *(
                _again(scene, one, room, changed, salts)
                for one in archivers.chosen(scene, *_uncompressed(), archivers.rsync())
            ),
        ]


def _uncompressed() -> list[Archiver]:
    return [archivers.ostree(compress=False), archivers.restic(compress=False), archivers.borg(compress=False)]


def _ours(scene: Scene, root: Path, base: str, changed: Path, salts: Iterator[int], *, finalize: bool) -> Side:
    made: list[str] = []
    salt = 0

    def before() -> None:
        nonlocal salt
        if made:
            prune(root, made.pop())
        salt = next(salts)
        trees.change(changed, 1, salt)

    def run() -> Sample:
        sample, ref = inner(worker("commit-change", root=root, base=base, salt=salt, finalize=finalize))
        made.append(ref)
        return sample

    def check() -> None:
        check_ref(scene, root, made[-1], fingerprint(changed), ALL)

    return Side(OURS + (", finalized" if finalize else ""), "shipway", run, before, check)


def _again(scene: Scene, one: Archiver, room: Path, changed: Path, salts: Iterator[int]) -> Side:
    """Return the side in which a program that has saved the tree saves it once more."""
    store = room / one.name.replace(" ", "_")

    def before() -> None:
        if not store.exists():
            scene.renew(store)
            one.make(store)
            one.save(changed, store)
        trees.change(changed, 1, next(salts))

    def check() -> None:
        with scene.room("check") as target:
            one.restore(store, target)
            same(fingerprint(changed, one.keeps), target / one.inside, one.keeps)

    return Side(one.name, "peer", lambda: one.save(changed, store), before, check, one.needs)


JOBS = (
    *(
        Job(f"commit-{kind}", "A directory becomes a ref", unit, works, quick, partial(_whole, kind))
        for kind, unit, works, quick in KINDS
    ),
    Job(
        "commit-change",
        "One file of a mutable ref over a big tree was changed; `commit()`, in a process that has the store open. "
        "The peers save the whole tree again",
        "files",
        (300, 3_000, 30_000),
        (300,),
        _change,
        targets=(Target(OURS, 5e-3),),
        rounds=3,
    ),
)
