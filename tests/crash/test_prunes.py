"""A prune that dies at any instant leaves a sound store, and touches nothing that is held."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.caches import DRIVERS, read

from shipway import Cache, Invalid, LocalImmutableRef

PROGRAM = Path(__file__).parent / "pruner.py"
REFS = 104
"""More than go in one batch."""


def pruned(root: Path, driver: str, kill_at: int) -> tuple[int, int]:
    """Prune in another process that dies at the given event; return how it ended, and how many there were."""
    command = [sys.executable, str(PROGRAM), str(root), driver, str(kill_at)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, int(done.stdout or 0)


def made(cache: Cache, tree: Path) -> LocalImmutableRef:
    """Fill a store, with chains too; return the one ref that stays held, which stands on another."""
    for _ in range(REFS // 2):
        chain(cache, tree).release()
    return chain(cache, tree)


def chain(cache: Cache, tree: Path) -> LocalImmutableRef:
    """Make a ref that stands on another."""
    with cache.import_tree(tree) as ref, cache.new(ref) as work:
        with work.mounted() as path:
            (path / "upper").write_text("text")
        return work.commit()


def check(cache: Cache, held: LocalImmutableRef) -> int:
    """Compare what the dead left, while the holder still is there, with what must be; return how many are left."""
    assert {one.kind for one in cache.verify()} <= {"leftover", "lease"}
    assert (read(held, "file"), read(held, "upper")) == ("text", "text")
    left = list(cache.disk_usage())
    used = {row.id for row in left if row.in_use}
    assert used == {held.id, *(row.parents[0] for row in left if row.id == held.id)}
    for row in left[::8]:
        try:
            with cache.get(row.id) as ref:
                assert read(ref, "file") == "text"
        except Invalid:  # mutable: what was committed and not finalized
            with cache.get_mutable(row.id) as work:
                assert read(work, "upper") == "text"
    return len(left)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_prune_that_dies_leaves_a_sound_store_and_all_that_is_held(tmp_path: Path, driver: str) -> None:
    chance, root, tree = random.Random(3), tmp_path / "store", tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("text")
    points, left = [0], []
    while points:
        with Cache.open(root, driver=driver) as cache, made(cache, tree) as held:
            code, events = pruned(root, driver, points.pop())
            assert code == (0 if events else -signal.SIGKILL)
            left.append(check(cache, held))
        with Cache.open(root, driver=driver) as cache:  # nobody else has it open: what belongs to nobody goes
            assert cache.verify() == []
            keys = {key for key in cache.store.records.known_snapshots() if key}
            assert set(cache.store.driver.keys()) == keys
            list(cache.prune())
        if events:
            points = [chance.randrange(1, events) for _ in range(6)]
    assert left[0] == 2
    assert len(set(left)) > 2, left
