"""Content checksums of a tree, for cache keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import inner, pipeline, quietly, worker
from bench.model import Job, Sample, Side, Target, WrongResult
from bench.scene import Scene
from bench.store import commit
from bench.trees import Tree

OURS = "shipway"
PEER = "find | xargs -P2 sha256sum"
_PROGRAMS = {PEER: "sha256sum", "find | xargs -P2 openssl": "openssl dgst -sha256 -r"}
"""Debian's sha256sum knows no SHA instructions of the processor; OpenSSL does, as Python's hashlib."""
_HASH_ALL = """
cd $1; rm -f $2.*
find . -type f -print0 | xargs -0 -P2 sh -c 'exec {0} "$@" > "$0.$$"' $2
cat $2.* > $2
"""
"""Each process has a file of its own: what two write to one at a time may come in pieces."""


@contextmanager
def _cold(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", work)
    with scene.room("checksum") as room:
        root = room / "root"
        ours = _Ours(root)

        def before() -> None:
            scene.renew(root)
            ours.ref = commit(root, tree.path)

        yield [Side(OURS, "shipway", ours.run, before, ours.check), *_floors(tree, room)]


@contextmanager
def _warm(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", work)
    with scene.room("checksum") as room:
        root = scene.renew(room / "root")
        ours = _Ours(root)
        ours.ref = commit(root, tree.path)
        ours.run()
        yield [Side(OURS, "shipway", ours.run, check=ours.check), *_floors(tree, room)]


class _Ours:
    """One ref's checksum; all of one tree have to be equal."""

    def __init__(self, root: Path) -> None:
        self.ref = ""
        self._root = root
        self._digests: list[str] = []

    def run(self) -> Sample:
        sample, digest = inner(worker("checksum", root=self._root, ref=self.ref))
        self._digests.append(digest)
        return sample

    def check(self) -> None:
        if len(set(self._digests)) > 1:
            raise WrongResult("one tree has several checksums")


def _floors(tree: Tree, room: Path) -> list[Side]:
    sums = room / "sums"

    def check() -> None:
        listed = len(sums.read_text().splitlines())
        if listed != tree.files:
            raise WrongResult(f"{listed} digests of {tree.files} files")
        quietly(["sha256sum", "--check", "--quiet", sums], cwd=tree.path)

    return [
        Side(name, "floor", partial(pipeline, _HASH_ALL.format(words), tree.path, sums), check=check, needs=(program,))
        for name, words in _PROGRAMS.items()
        for program in words.split()[:1]
    ]


_WORKS = (3_000, 10_000, 30_000)

JOBS = (
    Job(
        "checksum-cold",
        "The content checksum of a ref that was just committed; its files are in the page cache",
        "files",
        _WORKS,
        (1_000,),
        _cold,
        targets=(Target(OURS, 0.5, PEER),),
    ),
    Job(
        "checksum-warm",
        "The same once more, in another process",
        "files",
        _WORKS,
        (1_000,),
        _warm,
        targets=(Target(OURS, 1e-3),),
    ),
)
