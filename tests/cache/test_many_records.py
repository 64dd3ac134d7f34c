"""A store with very many refs: what is said of them all takes the memory that a few of them take."""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http import Client
from support.peak import measured

from shipway import Cache, CachePolicy, UsageRecord
from shipway.local import database, plan
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

LIMIT = 150_000_000
MANY = 20_000
_COPY = """
WITH RECURSIVE number (one) AS (VALUES (1) UNION ALL SELECT one + 1 FROM number WHERE one < ?)
INSERT INTO records SELECT printf('%s%08d', substr(id, 1, 12), one), 'merge', 0, NULL, NULL, NULL, diff_id, chain_id,
    policy, record_type, description, labels, created + one, last_used, usage_count + one % 7 FROM records, number
"""


def fill(cache: Cache, count: int) -> None:
    """Make so many unused refs, each of which stands on the one before it or, every fourth, on none."""
    with cache.new(policy=CachePolicy.RETAIN, description="one of many") as work, work.commit() as first:
        first.finalize()
        only = first.id
    with cache.store.database.write() as db:
        db.execute(_COPY, (count - 1,))
        db.execute(
            "INSERT INTO tags SELECT 'shipway', 'of-' || id, id, NULL, CAST('key ' || id AS BLOB), created FROM records"
        )
        db.execute(
            "INSERT INTO parents SELECT id, 0, printf('%s%08d', substr(id, 1, 12), substr(id, 13) - 1) FROM records"
            " WHERE id <> ? AND substr(id, 13) % 4 > 0 AND substr(id, 13) <> '00000001'",
            (only,),
        )


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Cache]:
    with Cache.open(tmp_path / "store", driver="native") as cache:
        fill(cache, MANY)
        yield cache


def taken(run: Callable[[], Iterator[Any]]) -> tuple[int, int]:
    """Return how many things an iterator yielded, and the most bytes that Python had at once meanwhile."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in run())
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda cache: cache.disk_usage(), id="du"),
        pytest.param(lambda cache: cache.disk_usage(["mutable", "immutable"]), id="du, filtered"),
        pytest.param(lambda cache: cache.prune(dry_run=True), id="a dry run"),
        pytest.param(lambda cache: cache.prune(dry_run=True, filters=["immutable"], max_used_space=0), id="by size"),
        pytest.param(lambda cache: cache.prune(filters=["immutable"], keep_duration=0), id="a prune"),
        pytest.param(lambda cache: cache.keys(), id="keys"),
    ],
)
def test_a_page_of_refs_is_in_memory_at_a_time(full: Cache, run: Callable[[Cache], Iterator[Any]]) -> None:
    count, used = taken(lambda: run(full))
    assert count == MANY
    assert used < 4_000_000  # 200 bytes for each would be as much


def verified(cache: Cache) -> Iterator[Any]:
    """Yield something for each record that was looked at, nothing of which is wrong."""
    seen: Counter[str] = Counter()
    assert cache.verify(progress=lambda progress: seen.update([progress.task])) == []
    yield from range(seen["verify snapshots"] - 1)


@pytest.mark.slow
def test_verify_has_a_page_of_records_in_memory_beside_the_layer_it_reads(full: Cache, tmp_path: Path) -> None:
    with Cache.open(tmp_path / "few", driver="native") as few:
        fill(few, 20)
        count, needed = taken(lambda: verified(few))
        assert count == 20
    count, used = taken(lambda: verified(full))
    assert count == MANY
    assert used < needed + 1_000_000  # 50 bytes for each would be as much


def in_one_queue(rows: list[UsageRecord]) -> list[str]:
    """Return the order in which refs go: least recently used first, often used later, children before parents."""
    times = sorted({row.last_used or row.created for row in rows})
    counts = sorted({row.usage_count for row in rows})
    children = Counter(parent for row in rows for parent in row.parents)
    places = {}
    for row in rows:
        used = row.last_used or row.created
        recent, often = times.index(used), counts.index(row.usage_count)
        places[row.id] = (recent / max(len(times) - 1, 1) + often / max(len(counts) - 1, 1), used, row.id)
    parents = {row.id: row.parents for row in rows}
    ready = [place for one, place in places.items() if not children[one]]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(heapq.heappop(ready)[-1])
        for parent in parents[order[-1]]:
            children[parent] -= 1
            if not children[parent]:
                heapq.heappush(ready, places[parent])
    return order


@pytest.mark.parametrize("seed", range(6))
def test_refs_go_in_the_order_of_one_queue_whatever_a_page_is(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    with Cache.open(tmp_path / "store", driver="native") as cache:
        fill(cache, 120)
        with cache.store.database.write() as db:
            ids = [one for (one,) in db.execute("SELECT id FROM records ORDER BY id")]
            db.execute("DELETE FROM parents")
            for place, one in enumerate(ids):
                below = chance.sample(ids[:place], min(place, chance.choice([0, 0, 1, 1, 2])))
                db.executemany("INSERT INTO parents VALUES (?, ?, ?)", [(one, *pair) for pair in enumerate(below)])
                made, used = (chance.randrange(10**9) * 10**9 for _ in range(2))
                values = (made, chance.choice([None, used]), chance.randrange(5), one)
                db.execute("UPDATE records SET created = ?, last_used = ?, usage_count = ? WHERE id = ?", values)
        expected = in_one_queue(list(cache.disk_usage()))
        for page in (1, 7, 1000):
            monkeypatch.setattr(database, "PAGE", page)
            monkeypatch.setattr(plan, "PAGE", page)
            assert [one.id for one in cache.prune(dry_run=True, reserved_space=0)] == expected
            assert [one.id for one in cache.prune(dry_run=True)] == expected
        assert [one.id for one in cache.prune()] == expected
        assert list(cache.disk_usage()) == []


@pytest.mark.slow
def test_a_server_lists_tags_by_pages_even_if_all_were_asked_for(full: Cache) -> None:
    ids = [ref.id for ref in full.disk_usage()]
    pages = []
    with serving(StoreBackend(full)) as url, Client(url) as client:
        path = "/v2/shipway/tags/list"
        while path:
            answer = client.ask("GET", path)
            pages.append(answer.json["tags"])
            path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert [len(page) for page in pages] == [10_000] * 4
    assert [name for page in pages for name in page] == sorted([*ids, *(f"of-{one}" for one in ids)])


@pytest.mark.slow
@pytest.mark.root
def test_a_prune_needs_no_room_on_the_disk(full: Cache, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        command = [sys.executable, "-m", "shipway", "--root", str(full.root)]
        environment = os.environ | {"SQLITE_TMPDIR": str(small)}
        shown = subprocess.run([*command, "du"], capture_output=True, text=True, env=environment, check=False)
        assert "no space" in shown.stderr
        pruned = subprocess.run([*command, "prune"], capture_output=True, text=True, env=environment, check=True)
        assert pruned.stdout.count("\n") == MANY + 1
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.slow
def test_opening_a_store_compares_its_rows_and_its_files_beside_memory(full: Cache) -> None:
    with full.store.database.write() as db:
        db.execute("UPDATE records SET snapshot = 's' || substr(id, 13) WHERE kind = 'merge'")
    for (key,) in full.store.database.read("SELECT snapshot FROM records WHERE kind = 'merge'"):
        (full.root / "snapshots" / key).mkdir()
    full.close()
    (full.root / "snapshots/stray").mkdir()

    def opened() -> Iterator[str]:
        with Cache.open(full.root) as cache:
            yield from cache.store.driver.keys()

    count, used = taken(opened)
    assert count == MANY
    assert used < 4_000_000
    assert not (full.root / "snapshots/stray").exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_million_refs_are_shown_verified_and_pruned_on_150_mb(tmp_path: Path) -> None:
    count = 1_000_000
    with Cache.open(tmp_path / "store", driver="native") as cache:
        fill(cache, count)
    peaks = {
        "ls": measured(tmp_path / "store", "ls"),
        "key ls": measured(tmp_path / "store", "--json", "key", "ls"),
        "du": measured(tmp_path / "store", "--json", "du"),
        "verify": measured(tmp_path / "store", "verify"),
        "prune --dry-run": measured(tmp_path / "store", "prune", "--dry-run", "--max-used-space", "1MB"),
        "prune": measured(tmp_path / "store", "prune"),
    }
    sys.stdout.write(f"{ {what: f'{used / 1e6:.0f} MB' for what, used in peaks.items()} }\n")
    assert {what: used for what, used in peaks.items() if used > LIMIT} == {}
    command = [sys.executable, "-m", "shipway", "--root", str(tmp_path / "store"), "--json", "ls"]
    assert json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) == []
