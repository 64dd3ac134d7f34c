"""A tree becomes a blob, a blob becomes a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import archivers
from bench.fingerprint import WHOLE_SECONDS, same
from bench.jobs.kinds import KINDS
from bench.measure import command, inner, pipeline, worker
from bench.model import Job, Sample, Side, Target, WrongResult
from bench.scene import Scene
from bench.trees import Tree

OURS = "shipway"
FLOOR = "floor: C"
_BEST = {"shipway": "zstd:chunked", "shipway, plain zstd": "zstd"}
_LIMIT = 150e6


@contextmanager
def _packs(kind: str, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("pack") as room:
        yield _packing(scene, scene.tree(kind, work), room)


@contextmanager
def _unpacks(kind: str, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("unpack") as room:
        yield _unpacking(scene, scene.tree(kind, work), room)


def _packing(scene: Scene, tree: Tree, room: Path) -> Sequence[Side]:
    saved = archivers.chosen(
        scene,
        archivers.tar("zstd"),
        archivers.tar("gzip"),
        archivers.casync(),
        archivers.restic(compress=True),
        archivers.borg(compress=True),
        archivers.umoci(),
        archivers.ostree(compress=True),
    )
    return [
        *(_ours(scene, tree, room, name) for name in _BEST),
        *(archivers.saving(one, tree, room, scene) for one in saved),
        _floor(scene, tree, room),
    ]


def _ours(scene: Scene, tree: Tree, room: Path, name: str) -> Side:
    blob = room / "ours"
    answers: list[dict[str, Any]] = []

    def run() -> Sample:
        sample, answer = inner(worker("pack-tree", tree=tree.path, blob=blob, compression=_BEST[name]))
        answers[:] = [answer]
        return sample

    def check() -> None:
        check_blob(scene, blob, answers[0]["diff_id"], answers[0]["digest"])
        with scene.room("check") as target:
            command(["tar", "-x", "--zstd", "-f", blob, "-C", target])
            same(tree.fingerprint(), target)

    return Side(name, "shipway", run, check=check)


def check_blob(scene: Scene, blob: Path, diff_id: str, digest: str) -> None:
    """Raise `WrongResult` unless `sha256sum` says the same digests of a blob and of what it inflates to."""
    with scene.room("digests") as room:
        pipeline("sha256sum < $1 > $2/blob; zstd -q -d < $1 | sha256sum > $2/tar", blob, room)
        found = {name: "sha256:" + (room / name).read_text().split()[0] for name in ("blob", "tar")}
    if found != {"blob": digest, "tar": diff_id}:
        raise WrongResult(f"{blob} has other digests than those it was given")


def _floor(scene: Scene, tree: Tree, room: Path) -> Side:
    blob = room / "floor"

    def check() -> None:
        with scene.room("check") as target:
            command(["tar", "-x", "--zstd", "-f", blob, "-C", target])
            same(tree.fingerprint(WHOLE_SECONDS), target, WHOLE_SECONDS)

    return Side(
        FLOOR, "floor", lambda: command([scene.floor("pack"), tree.path, blob]), check=check, needs=("floor:pack",)
    )


def _unpacking(scene: Scene, tree: Tree, room: Path) -> Sequence[Side]:
    target = room / "target"
    saved = archivers.chosen(
        scene,
        archivers.casync(),
        archivers.restic(compress=True),
        archivers.borg(compress=True),
        archivers.umoci(),
        archivers.ostree(compress=True),
    )
    sides = []
    for number, (name, compression) in enumerate(_BEST.items()):
        blob = room / f"blob-{number}"
        _, packed = inner(worker("pack-tree", tree=tree.path, blob=blob, compression=compression))
        ending = name.removeprefix("shipway")
        unpack = worker("unpack-blob", blob=blob, tree=target, packed=packed)

        def ours(argv: Sequence[str | Path] = unpack) -> Sample:
            return inner(argv)[0]

        def tar(blob: Path = blob) -> Sample:
            return command(["tar", "-x", "--zstd", "-f", blob, "-C", target])

        def floor(blob: Path = blob) -> Sample:
            return command([scene.floor("unpack"), blob, target])

        def before() -> None:
            scene.renew(target)

        def check() -> None:
            same(tree.fingerprint(), target)

        sides += [
            Side(name, "shipway", ours, before, check),
            Side("tar -x --zstd" + ending, "peer", tar, before, check, ("tar", "zstd")),
            Side(FLOOR + ending, "floor", floor, before, check, ("floor:unpack",)),
        ]
    return sides + [archivers.restoring(one, tree, room, scene) for one in saved]


_PACK_TARGETS = (
    Target(OURS, 1 / 2, "tar | zstd -3 -T2"),
    *(Target(OURS, 1 / 2.5, peer) for peer in ("casync", "restic", "umoci")),
    Target(OURS, 1.3, FLOOR),
    Target(OURS, _LIMIT, what="memory"),
)
_UNPACK_TARGETS = (
    Target(OURS, 1.0, "tar -x --zstd"),
    Target(OURS, 1.4, FLOOR),
    Target(OURS, _LIMIT, what="memory"),
)
JOBS = (
    *(
        Job(
            f"pack-{kind}",
            "A tree becomes tar and zstd level 3, with sha256 of both",
            unit,
            works,
            quick,
            partial(_packs, kind),
            targets=_PACK_TARGETS,
        )
        for kind, unit, works, quick in KINDS
    ),
    *(
        Job(
            f"unpack-{kind}",
            "A blob becomes a tree; Shipway and the floor verify both digests, tar none",
            unit,
            works,
            quick,
            partial(_unpacks, kind),
            targets=_UNPACK_TARGETS,
        )
        for kind, unit, works, quick in KINDS
    ),
)
