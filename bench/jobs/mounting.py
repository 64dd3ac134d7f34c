"""Showing a chain of layers as a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import shipway
from bench.fingerprint import fingerprint, same
from bench.measure import inner, pipeline, quietly, worker
from bench.model import Job, Sample, Side, Target
from bench.scene import Scene, unmount_below

ROUNDS = 50
OURS = "shipway"
FLOOR = "floor: system calls"
_LOOP = "for _ in $(seq 50); do {0}; done"
_PAGE = 4096
"""mount(2) takes no more bytes of options."""


@contextmanager
def _mounts(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("mount") as room:
        root, target = room / "root", scene.renew(room / "target")
        _, ref = inner(worker("stack", root=root, layers=work))
        layers = _layers(root, ref)
        expected = _shown(scene, root, ref)

        def check(show: Callable[[], object]) -> Callable[[], None]:
            def look() -> None:
                show()
                try:
                    same(expected, target)
                finally:
                    unmount_below(room)

            return look

        lower = f"lowerdir={':'.join(map(str, layers))}"
        mount8 = ["mount", "-o", "bind,ro", layers[0]] if work == 1 else ["mount", "-t", "overlay", "-o", lower, "none"]
        fuse = ["fuse-overlayfs", "-o", lower]
        sides = [
            Side(OURS, "shipway", lambda: inner(worker("mount", root=root, ref=ref, rounds=ROUNDS))[0]),
            Side(
                FLOOR,
                "floor",
                lambda: inner([scene.floor("mount"), str(ROUNDS), target, *layers])[0],
                needs=("floor:mount",),
            ),
            Side(
                "fuse-overlayfs",
                "peer",
                lambda: _looped([*fuse, target], target, "fusermount -u"),
                check=check(lambda: quietly([*fuse, target])),
                needs=("fuse-overlayfs", "fusermount"),
            ),
        ]
        if len(lower) < _PAGE:
            sides.append(
                Side(
                    "mount(8), umount(8)",
                    "floor",
                    lambda: _looped([*mount8, target], target, "umount"),
                    check=check(lambda: quietly([*mount8, target])),
                    needs=("mount",),
                )
            )
        yield sides


def _looped(mount: Sequence[str | Path], target: Path, unmount: str) -> Sample:
    """Return what one mount and unmount take, of many in one shell."""
    script = f'target=$1; unmount="$2"; shift 2; {_LOOP.format("$@; $unmount $target")}'
    whole = pipeline(script.replace("$@", '"$@"'), target, unmount, *mount)
    return Sample(whole.seconds / ROUNDS, whole.cpu / ROUNDS if whole.cpu is not None else None, whole.memory)


def _layers(root: Path, ref: str) -> list[Path]:
    """Return the directories of a ref's layers, the top one first."""
    with shipway.Cache.open(root) as cache, cache.get(ref) as one:
        (mount,) = one.mount(readonly=True)
    if mount.type != "overlay":
        return [Path(mount.source)]
    options = [option.partition("=") for option in mount.options]
    return [Path(path) for key, _, value in options if key.startswith("lowerdir") for path in value.split(":")]


def _shown(scene: Scene, root: Path, ref: str) -> str:
    """Return the fingerprint of a ref as Shipway mounts it, once it equals what Shipway extracts."""
    with shipway.Cache.open(root) as cache, cache.get(ref) as one, scene.room("extracted") as room:
        one.extract(room, "/")
        with one.mounted(readonly=True) as path:
            expected = fingerprint(path)
        same(expected, room)
    return expected


JOBS = (
    Job(
        "mount",
        "A chain of layers is mounted, read-only, and unmounted; medians of 50 times in one process",
        "layers",
        (1, 16, 128),
        (1, 16),
        _mounts,
        ("root",),
        (Target(OURS, 1.5, FLOOR), Target(OURS, 5e-3)),
    ),
)
