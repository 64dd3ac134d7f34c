"""The policies of the configuration are applied without being asked, in the background."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.caches import write

from shipway import Cache, CachePolicy, Config, PrunePolicy
from shipway.local.keeping import PruneOptions
from shipway.local.pruning import prune

SPARE_NOTHING = Config(prune=(PrunePolicy(max_used_space="0B"),))


def commit(cache: Cache, name: str, kib: int = 1) -> str:
    with cache.new(policy=CachePolicy.RETAIN, description=name) as work:
        write(work, **{name: "x" * kib * 1024})
        with work.commit() as done:
            done.finalize()
            return done.id


def ids(cache: Cache) -> set[str]:
    return {one.id for one in cache.disk_usage()}


def make_due(cache: Cache) -> None:
    """Forget when the last run was."""
    with cache.store.database.write() as db:
        db.execute("DELETE FROM settings WHERE name = 'prune_due'")


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a store with two refs that nobody holds."""
    with Cache.open(tmp_path / "store", driver="native", config=Config()) as cache:
        for name in ("old", "older"):
            commit(cache, name)
    return tmp_path / "store"


def test_a_commit_applies_the_policies(root: Path) -> None:
    with Cache.open(root, config=SPARE_NOTHING) as cache, cache.new() as work:
        before = ids(cache) - {work.id}
        done = work.commit()
        wait_until(lambda: ids(cache) == {done.id})
        assert len(before) == 2


def test_a_program_that_commits_and_ends_prunes_before_it_ends(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    file = tmp_path / "config.toml"
    file.write_text("[[prune]]\nfilters = ['description==old']\n")
    program = [sys.executable, "-m", "shipway", "--config", str(file), "--root", str(root), "commit", "tree"]
    subprocess.run(program, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    with Cache.open(root) as cache:
        assert {one.description for one in cache.disk_usage()} == {"older", "tree"}


def test_policies_are_applied_one_after_the_other(root: Path) -> None:
    policies = (
        PrunePolicy(filters=("description==old",)),
        PrunePolicy(filters=("type==exec.cachemount",), keep_duration="1h"),
    )
    with Cache.open(root, config=Config(prune=policies)) as cache:
        commit(cache, "new")
    with Cache.open(root) as cache:
        assert {one.description for one in cache.disk_usage()} == {"older", "new"}


def test_what_is_not_due_is_left_alone_and_one_process_takes_the_run(root: Path) -> None:
    with Cache.open(root, config=SPARE_NOTHING) as cache:
        commit(cache, "first")
    with Cache.open(root, config=SPARE_NOTHING) as cache:
        kept = {commit(cache, f"kept{number}") for number in range(3)}
    with Cache.open(root) as cache:
        assert kept <= ids(cache)
        make_due(cache)
    with Cache.open(root, config=SPARE_NOTHING) as cache:
        commit(cache, "last")
    with Cache.open(root) as cache:
        assert not kept & ids(cache)


@pytest.mark.parametrize("due", [0, 2**62])
def test_a_clock_that_was_wrong_does_not_put_it_off_for_ever(root: Path, due: int) -> None:
    with Cache.open(root, config=Config()) as cache, cache.store.database.write() as db:
        db.execute("INSERT INTO settings VALUES ('prune_due', ?)", (str(due),))
    with Cache.open(root, config=SPARE_NOTHING) as cache, cache.new() as work:
        done = work.commit()
        wait_until(lambda: ids(cache) == {done.id})


def test_a_commit_does_not_wait_for_a_prune_and_pays_one_look(root: Path) -> None:
    with Cache.open(root, config=SPARE_NOTHING) as cache:
        commit(cache, "takes the run")
        wait_until(lambda: not any(one.name == "shipway-upkeep" for one in threading.enumerate()))
        statements: list[str] = []
        work = cache.new()
        cache.store.database._connection.set_trace_callback(statements.append)
        with_policies = work.commit()
        cache.store.database._connection.set_trace_callback(None)
        with_policies.release()
        assert [one for one in statements if "prune_due" in one] == [
            "SELECT value FROM settings WHERE name = 'prune_due'"
        ]


def test_a_failure_of_the_background_is_said_and_harms_no_commit(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Cache.open(root, config=SPARE_NOTHING) as cache, cache.new() as work:
        with cache.store.database.write() as db:
            db.execute("ALTER TABLE blobs RENAME TO gone")
        done = work.commit()
        wait_until(lambda: "the background prune failed" in caplog.text)
        with cache.store.database.write() as db:
            db.execute("ALTER TABLE gone RENAME TO blobs")
        assert done.id in ids(cache)


def test_a_prune_that_is_stopped_leaves_the_rest_whole(root: Path) -> None:
    with Cache.open(root, config=Config()) as cache:
        prune(cache.store, PruneOptions(), stopped=lambda: True)
        assert len(ids(cache)) == 1
        assert cache.verify() == []


@pytest.mark.slow
def test_a_server_applies_the_policies_without_any_commit(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[[prune]]\nmax-used-space = '0B'\n")
    program = [sys.executable, "-m", "shipway", "--config", str(file), "--root", str(root), "--json"]
    serve = ["serve", "--port", "0", "--until-eof"]
    with subprocess.Popen([*program, *serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert "url" in json.loads(server.stdout.readline())
        wait_until(lambda: os.listdir(root / "snapshots") == [])
    assert server.returncode == 0
