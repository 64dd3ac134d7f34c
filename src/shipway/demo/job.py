"""The job itself, step by step, on real files.

Worker A commits a tree and a layer of changes over it, gives it a key and serves its store from
a process of its own. Worker B, with an empty store, looks the key up, takes one file out, pulls
the rest, compares everything with the source, changes a file and pushes that back; A reads it.
What is compared are descriptions made by `shipway.trees.compare`, which knows nothing of layers.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import zstandard

from shipway.cache import Cache
from shipway.config import Config
from shipway.demo.changes import Plan, apply, edit, expect, plan_changes
from shipway.demo.report import Report, Step, Target
from shipway.demo.server import serving
from shipway.errors import Corrupt, Invalid, NotFound
from shipway.oci import key_tag
from shipway.references import Reference
from shipway.refs import LocalImmutableRef, RemoteImmutableRef
from shipway.trees.compare import Look, differences, look
from shipway.trees.removal import remove_tree

KEY, CHANGED_KEY = "demo", "demo-changed"
EXTRACT_SHARE = 0.02
"""One file out of a remote ref moves at most this share of the image's compressed bytes, or, if
that is more, as happens with small trees, what pushing the file may."""
PUSH_FACTOR, PUSH_SLACK = 1.5, 64 << 10
"""Pushing a changed file moves at most so often its compressed size, and so many bytes more."""

Announce = Callable[[str], None]
Looks = dict[str, Look]


def run(tree: Path | None = None, *, work: Path | None = None, announce: Announce = lambda _: None) -> Report:
    """Run the whole job on `tree` and return what happened.

    Args:
        tree: the directory to use; by default a copy of this Python's standard library without site-packages.
        work: an existing directory to work in, which is kept; by default a temporary one.
        announce: is told what is being done.

    Raises:
        ShipwayError: something failed. Wrong results are no error; they are in the report.
    """
    if tree is not None:
        _check(tree)
    with ExitStack() as stack:
        place = work or stack.enter_context(_temporary())
        name = str(tree) if tree is not None else "Python's standard library"
        if tree is None:
            announce("copying the standard library aside")
            tree = _copy_standard_library(place / "source")
        return _Job(stack, place, tree, announce).run(name)


class _Job:
    """The state of one run: A's store, what is held until the end, and the steps so far."""

    def __init__(self, stack: ExitStack, work: Path, tree: Path, announce: Announce) -> None:
        self._stack = stack
        self._work = work
        self._tree = tree
        self._announce = announce
        self._owners = os.geteuid() == 0
        self._a = stack.enter_context(Cache.open(work / "a", config=Config()))
        self._steps: list[Step] = []
        self._targets: list[Target] = []
        self._mismatches: list[str] = []

    def run(self, name: str) -> Report:
        self._announce("describing the source")
        source = look(self._tree)
        plan = plan_changes(source)
        expected = self._commit(source, plan, name)
        with self._step("A", "serve", "a process of its own"):
            address = self._stack.enter_context(serving(self._work / "a", self._work / "server.log"))
        b = self._stack.enter_context(Cache.open(self._work / "b", remotes=[address], config=Config()))
        remote = self._lookup(b)
        self._extract(remote, plan.sample, expected)
        pulled = self._pull(remote, expected)
        changed, expected = self._change(b, pulled, plan.edited, expected)
        self._push(b, changed, str(Reference.parse(address).at(tag=key_tag(CHANGED_KEY))), plan.edited)
        self._read_back(plan.edited, expected)
        return Report(
            tree=name,
            files=sum(one.type == "file" for one in source.values()),
            size=sum(one.size for one in source.values()),
            drivers=(self._a.driver.name, b.driver.name),
            steps=tuple(self._steps),
            targets=tuple(self._targets),
            mismatches=tuple(self._mismatches),
        )

    def _commit(self, source: Looks, plan: Plan, name: str) -> Looks:
        with self._step("A", "commit", f"{len(source):,} entries"):
            base = self._stack.enter_context(self._a.import_tree(self._tree, description=name))
        with self._a.new(base) as work:
            with self._step("A", "change", "a second layer: add, change, remove"), work.mounted() as path:
                apply(plan, path)
            with work.mounted(readonly=True) as path:
                live = look(path)
            done = self._stack.enter_context(work.commit())
        expected = expect(plan, source, live)
        self._compare("A", "what A committed", expected, done.mounted())
        with self._step("A", "key put", KEY):
            self._a.put(KEY, done)
        return expected

    def _lookup(self, b: Cache) -> RemoteImmutableRef:
        with self._step("B", "key get", "found at A, which packs it now"):
            found = b.lookup(KEY)
        if not isinstance(found, RemoteImmutableRef):
            raise NotFound("worker B does not find the key at worker A", where=KEY)
        return self._stack.enter_context(found)

    def _extract(self, remote: RemoteImmutableRef, sample: str, expected: Looks) -> None:
        into = self._work / "extracted"
        with self._step("B", "extract", f"/{sample}") as note:
            remote.extract(into, "/" + sample)
            moved = remote.traffic.received  # with all that looking it up took
            note(moved, remote.size())
        name = os.path.basename(sample)
        around = look(into)[""]  # the directory itself was not asked for
        self._compare("B", "what was extracted", {"": around, name: _alone(expected[sample], name)}, nullcontext(into))
        limit = max(int(EXTRACT_SHARE * remote.size()), _limit(into / name))
        self._targets.append(Target("extract of one file", moved, limit))

    def _pull(self, remote: RemoteImmutableRef, expected: Looks) -> LocalImmutableRef:
        before = remote.traffic
        with self._step("B", "pull", "everything") as note:
            pulled = self._stack.enter_context(remote.pull())
            note((remote.traffic - before).received, remote.size())
        self._compare("B", "what B pulled", expected, pulled.mounted())
        return pulled

    def _change(
        self, b: Cache, pulled: LocalImmutableRef, edited: str, expected: Looks
    ) -> tuple[LocalImmutableRef, Looks]:
        how = "mounted" if b.driver.can_mount else "checked out"
        with b.new(pulled) as work:
            with self._step("B", "change", f"/{edited}, {how}"), work.mounted() as path:
                edit(path / edited)
            with work.mounted(readonly=True) as path:
                after = look(path)
            changed = self._stack.enter_context(work.commit())
        return changed, expected | {edited: after[edited]}

    def _push(self, b: Cache, changed: LocalImmutableRef, reference: str, edited: str) -> None:
        with self._step("B", "push", "the change, back to A") as note:
            pushed = b.push(changed, reference)
            note(pushed.traffic.sent, None)
        with changed.mounted() as path:
            limit = _limit(path / edited)
        self._targets.append(Target("push of one changed file", pushed.traffic.sent, limit))

    def _read_back(self, edited: str, expected: Looks) -> None:
        with self._step("A", "read", f"/{edited}, from its own store"):
            found = self._a.lookup(CHANGED_KEY)
            if found is None or isinstance(found, RemoteImmutableRef):
                raise NotFound("worker A does not find what worker B pushed", where=CHANGED_KEY)
            back = self._stack.enter_context(found)
            with back.mounted() as path, open(path / edited, "rb") as file:
                if not file.read().endswith(b"# changed by worker B\n"):
                    raise Corrupt("worker A does not see the change", where=f"/{edited}")
        self._compare("A", "what came back", expected, back.mounted())

    def _compare(self, worker: str, what: str, expected: Looks, shown: AbstractContextManager[Path]) -> None:
        with self._step(worker, "compare", what), shown as path:
            actual = look(path)
            found = differences(expected, actual, owners=self._owners)
        verdict = f"{what}, {len(actual):,} entries: " + (f"{len(found):,} differences" if found else "equal")
        self._steps[-1] = replace(self._steps[-1], detail=verdict)
        self._mismatches += [f"{what}: {difference}" for difference in found]

    @contextmanager
    def _step(self, worker: str, what: str, detail: str) -> Iterator[Callable[[int, int | None], None]]:
        """Time a step; yields a function that notes the bytes moved, and what they are to be held against."""
        self._announce(f"worker {worker}: {what} {detail}")
        moved: list[int | None] = [None, None]

        def note(count: int, total: int | None) -> None:
            moved[:] = count, total

        start = time.perf_counter()
        yield note
        self._steps.append(Step(worker, what, detail, time.perf_counter() - start, *moved))


def _limit(file: Path) -> int:
    compressed = len(zstandard.ZstdCompressor(level=3).compress(file.read_bytes()))
    return int(PUSH_FACTOR * compressed) + PUSH_SLACK


def _check(tree: Path) -> None:
    if not tree.exists():
        raise NotFound("no such directory", where=str(tree))
    if not tree.is_dir():
        raise Invalid("not a directory", where=str(tree))


def _alone(one: Look, name: str) -> Look:
    return replace(one, names=(name,))


@contextmanager
def _temporary() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="shipway-demo-")
    try:
        yield Path(path)
    finally:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_tree(parent, os.path.basename(path))
        finally:
            os.close(parent)


def _copy_standard_library(target: Path) -> Path:
    # Copied, so that no other Python that runs meanwhile can add a .pyc file to it.
    library = sysconfig.get_path("stdlib")
    left_out = shutil.ignore_patterns("site-packages", "dist-packages")
    shutil.copytree(library, target, symlinks=True, ignore=left_out)
    return target
