"""What a large store costs: committing a large tree, looking up one key among a million, opening, du and prune.

`python benchmarks/scale.py [--json] [--records N] [--keys N] [--files N] [--directory DIR]`. The store is filled by the
store's own functions, many to a transaction; on a disk that takes long, since each record is flushed: use a tmpfs
(`--directory /dev/shm`). Each row has a figure for a small and for the full number, so that
what grows faster than the store shows. Times are in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shipway import Cache, CachePolicy, Config
from shipway.local.rows import NewRecord
from shipway.local.store import Store

BATCH = 1000
CHAIN = 4
"""Records that stand on one another; the next one starts anew."""
LOOKUPS = 5000
SMALL = 10
"""The small number is this fraction of the full one."""

Row = dict[str, object]


def timed(action: Callable[[], object]) -> float:
    """Return the milliseconds that one call takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def commit_ms(root: Path, files: int, rounds: int = 20) -> float:
    """Return the median time of a commit on a mutable ref of so many files."""
    times = []
    with Cache.open(root, config=Config()) as cache:
        work = cache.new(policy=CachePolicy.RETAIN)
        with work.mounted() as path:
            for number in range(files):
                directory = path / f"d{number // 100}"
                directory.mkdir(exist_ok=True)
                (directory / f"f{number}").write_bytes(b"text")
        for _ in range(rounds):
            start = time.perf_counter()
            done = work.commit()
            times.append((time.perf_counter() - start) * 1000)
            done.release()
            work = cache.get_mutable(work.id)
        work.release()
    return statistics.median(times)


def fill(store: Store, count: int) -> list[str]:
    """Add so many records of small trees, in short chains; return their ids."""
    ids: list[str] = []
    parent = None
    while len(ids) < count:
        with store.database.write():
            for _ in range(min(BATCH, count - len(ids))):
                record = store.new_mutable(parent, NewRecord(policy=CachePolicy.RETAIN, description=f"n{len(ids)}"))
                done = store.finalize(store.records.commit(record.id))
                store.records.release(done.id)
                ids.append(done.id)
                parent = done if len(ids) % CHAIN else None
    return ids


def put_keys(store: Store, ids: list[str], numbers: range) -> None:
    """Give the records the keys of these numbers."""
    for start in range(0, len(numbers), BATCH):
        with store.database.write():
            for number in numbers[start : start + BATCH]:
                store.tags.put_key(b"key-%d" % number, ids[number % len(ids)])


def lookups(cache: Cache, keys: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of a lookup of one key among so many, in milliseconds."""
    chance = random.Random(1)
    times = []
    for _ in range(LOOKUPS):
        key = f"key-{chance.randrange(keys)}"
        start = time.perf_counter()
        found = cache.lookup(key)
        times.append((time.perf_counter() - start) * 1000)
        assert found is not None
        found.release()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def opening_ms(root: Path) -> float:
    """Return the time of opening a store and closing it again, the best of three."""

    def open_and_close() -> None:
        Cache.open(root, config=Config()).close()

    return min(timed(open_and_close) for _ in range(3))


def of_records(root: Path, counts: tuple[int, int], keys: tuple[int, int]) -> list[Row]:
    """Return the rows about a store that is filled in two steps."""
    measured: list[dict[str, float]] = []
    ids: list[str] = []
    for records, wanted in zip(counts, keys, strict=True):
        with Cache.open(root, config=Config()) as cache:
            start = time.perf_counter()
            before = len(ids)
            ids += fill(cache.store, records - before)
            filled = (time.perf_counter() - start) * 1000 / (records - before)
            put_keys(cache.store, ids, range(keys[0] if measured else 0, wanted))
            p50, p99 = lookups(cache, wanted)
            found = {"filling, a record": filled, "lookup p50": p50, "lookup p99": p99}
            found["du, first"] = timed(cache.disk_usage)
            found["du, again"] = timed(cache.disk_usage)
            found["prune --dry-run"] = timed(partial(cache.prune, dry_run=True))
            found["prune --dry-run by size"] = timed(partial(cache.prune, dry_run=True, max_used_space=1 << 20))
            found["prune of one"] = timed(partial(cache.prune, ids=[ids.pop()]))
        found["open and close"] = opening_ms(root)
        measured.append(found)
    return [
        {"what": what, "small": measured[0][what], "full": measured[1][what], "of": f"{counts[1]} records"}
        for what in measured[0]
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--directory", type=Path, help="where to make the stores; default: a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory)
        commits = [commit_ms(root / f"commits-{count}", count) for count in (options.files // SMALL, options.files)]
        rows: list[Row] = [
            {"what": "commit", "small": commits[0], "full": commits[1], "of": f"a mutable of {options.files} files"}
        ]
        counts, keys = ((full // SMALL, full) for full in (options.records, options.keys))
        rows += of_records(root / "store", counts, keys)
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"{'':<26}{'a tenth':>12}{'full':>12}   of")
    for row in rows:
        print(f"{row['what']:<26}{row['small']:>12.3f}{row['full']:>12.3f}   {row['of']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
