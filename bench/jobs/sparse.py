"""One large file that is mostly holes, as a database or a disk image is: memory against size.

Results are compared as streams: written out with their holes filled they would not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import archivers
from bench.jobs.packing import check_blob
from bench.measure import command, inner, quietly, shipway, worker
from bench.model import Job, Sample, Side, Target, WrongResult
from bench.scene import Scene

OURS = "shipway"
_LIMIT = Target(OURS, 150e6, what="memory")
_GIGABYTE = 10**9
_EVERY = 64 << 20
_DATA = 1 << 20
_NAME = "image"
_HASH = "sha256sum < $1 | cut -d ' ' -f 1"
_HASH_PACKED = "tar -x -O --zstd -f $1 | sha256sum | cut -d ' ' -f 1"


def _make(tree: Path, gigabytes: int) -> str:
    """Make a tree of the one file: a MiB of data in each 64 MiB; return the file's digest."""
    with (tree / _NAME).open("wb") as file:
        for offset in range(0, gigabytes * _GIGABYTE, _EVERY):
            file.seek(offset)
            file.write(json.dumps({"at": offset}).encode().ljust(_DATA, b"."))
        file.truncate(gigabytes * _GIGABYTE)
    return _digest(tree / _NAME)


def _digest(path: Path, script: str = _HASH) -> str:
    return quietly(["bash", "-euo", "pipefail", "-c", script, "bash", path]).strip()


def _same(expected: str, path: Path, script: str = _HASH) -> None:
    if _digest(path, script) != expected:
        raise WrongResult(f"{path} has not the content it should have")


def _same_with_holes(expected: str, tree: Path, path: Path) -> None:
    _same(expected, path)
    if path.stat().st_blocks > 2 * (tree / _NAME).stat().st_blocks:
        raise WrongResult(f"{path} has lost its holes")


@contextmanager
def _packs(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("sparse") as room:
        tree, blob, store = scene.renew(room / "tree"), room / "blob", room / "store"
        expected, tar = _make(tree, work), archivers.tar("zstd")
        packed: dict[str, str] = {}

        def run() -> Sample:
            sample, answer = inner(worker("pack-tree", tree=tree, blob=blob, compression="zstd:chunked"))
            packed.update(answer)
            return sample

        def check() -> None:
            check_blob(scene, blob, packed["diff_id"], packed["digest"])
            _same(expected, blob, _HASH_PACKED)

        yield [
            Side(OURS, "shipway", run, check=check),
            Side(
                f"{tar.name}, -S",
                "peer",
                lambda: tar.save(tree, store),
                partial(scene.renew, store),
                lambda: _same(expected, store / "blob", _HASH_PACKED),
                tar.needs,
            ),
        ]


@contextmanager
def _unpacks(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("sparse") as room:
        tree, blob, target = scene.renew(room / "tree"), room / "blob", room / "target"
        expected = _make(tree, work)
        _, packed = inner(worker("pack-tree", tree=tree, blob=blob, compression="zstd:chunked"))

        def run() -> Sample:
            return inner(worker("unpack-blob", blob=blob, tree=target, packed=packed))[0]

        yield [
            Side(
                OURS,
                "shipway",
                run,
                partial(scene.renew, target),
                lambda: _same_with_holes(expected, tree, target / _NAME),
            ),
            Side("floor: zstd -d | sha256sum", "floor", lambda: _hashed(blob), needs=("zstd", "sha256sum")),
        ]


def _hashed(blob: Path) -> Sample:
    return command(["bash", "-euo", "pipefail", "-c", "zstd -q -d < $1 | sha256sum", "bash", blob])


@contextmanager
def _commits(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    with scene.room("sparse") as room:
        tree, root, copy = scene.renew(room / "tree"), room / "root", room / "copy"
        expected = _make(tree, work)

        def check() -> None:
            (listed,) = json.loads(quietly([*shipway(root, "--json"), "ls"]))
            with scene.room("check") as target:
                quietly(shipway(root, "extract", listed["id"], target))
                _same_with_holes(expected, tree, target / _NAME)

        yield [
            Side(OURS, "shipway", lambda: command(shipway(root, "commit", tree)), partial(scene.renew, root), check),
            Side(
                "floor: cp -a",
                "floor",
                lambda: command(["cp", "-a", f"{tree}/.", copy]),
                partial(scene.renew, copy),
                lambda: _same_with_holes(expected, tree, copy / _NAME),
                ("cp",),
            ),
        ]


JOBS = tuple(
    Job(f"sparse-{name}", f"{about}; holes are kept", "GB", (1, 3, 10), (), sides, targets=(_LIMIT,), rounds=2)
    for name, about, sides in (
        ("commit", "A directory with one large file becomes a ref", _commits),
        ("pack", "It becomes a blob", _packs),
        ("unpack", "The blob becomes a tree", _unpacks),
    )
)
