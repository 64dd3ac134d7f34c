"""What Shipway's library does, in a fresh process that times just that: `python -m bench.worker VERB JSON`.

It prints `{"seconds": …, "cpu": …, "answer": …}`. Importing the package is not part of it: that is a job of its own.
"""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shipway
from bench import trees
from shipway.layers.compression import Compression
from shipway.layers.pack import pack
from shipway.layers.unpack import unpack
from shipway.oci import Descriptor
from shipway.trees.diff import everything
from shipway.trees.directory import DirectoryTree
from shipway.trees.writer import TreeWriter

PIECE = 1 << 20
LOOKUPS = 2000


class Clock:
    """Times what is inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu = 0.0

    def __enter__(self) -> None:
        self._used = _cpu()
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self._begun)
        self.cpu += _cpu() - self._used


def pack_tree(clock: Clock, tree: str, blob: str, compression: str) -> object:
    """Pack a directory; the answer says what unpacks it."""
    with clock, DirectoryTree(Path(tree)) as source, open(blob, "wb", buffering=0) as out:
        packed = pack(source, everything(source), out, compression=Compression(compression))
    one = packed.descriptor
    return {"media_type": one.media_type, "digest": one.digest, "size": one.size, "diff_id": packed.diff_id}


def unpack_blob(clock: Clock, blob: str, tree: str, packed: dict[str, Any]) -> None:
    """Unpack a blob, both digests verified."""
    descriptor = Descriptor(media_type=packed["media_type"], digest=packed["digest"], size=packed["size"])
    with clock, TreeWriter(Path(tree)) as sink:
        unpack(_pieces(blob), descriptor, packed["diff_id"], sink)
        sink.finish()


def commit_change(clock: Clock, root: str, base: str, salt: int, *, finalize: bool) -> str:
    """Change one file of a mutable ref over `base`; commit it, which is timed. The answer is the new ref's id."""
    with shipway.Cache.open(root) as cache, cache.get(base) as below, cache.new(below) as work:
        with work.mounted() as path:
            trees.change(path, 1, salt)
        with clock:
            done = work.commit()
            if finalize:
                done.finalize()
        return done.id


def checksum(clock: Clock, root: str, ref: str) -> str:
    """Return the content checksum of a whole tree."""
    with shipway.Cache.open(root) as cache, cache.get(ref) as one, clock:
        return one.checksum("/")


def mount(clock: Clock, root: str, ref: str, rounds: int) -> None:
    """Mount and unmount a ref, many times; the median counts."""
    with shipway.Cache.open(root) as cache, cache.get(ref) as one:
        for _ in range(rounds):
            with clock, one.mounted(readonly=True):
                pass


def stack(clock: Clock, root: str, layers: int) -> str:
    """Make a ref of so many layers, each with some files; the answer is its id."""
    with shipway.Cache.open(root) as cache:
        ref = None
        for number in range(layers):
            with cache.new(ref) as work:
                with work.mounted() as path:
                    for index in range(20):
                        directory = path / f"d{index % 5}"
                        directory.mkdir(exist_ok=True)
                        (directory / f"f{number}-{index}").write_text("text")
                ref = work.commit()
        if ref is None:
            raise AssertionError("a stack has at least one layer")
        with clock:
            ref.finalize()
        return ref.id


def extract(clock: Clock, root: str, reference: str, names: str, target: str) -> None:
    """Extract the files that the file `names` lists, by their whole paths, from a remote ref that is new here."""
    paths = ["/" + line for line in Path(names).read_text().splitlines()]
    with shipway.Cache.open(root) as cache, clock, cache.remote(reference) as ref:
        ref.extract(target, *paths, parents=True)


def put_keys(clock: Clock, root: str, count: int) -> None:
    """Put so many keys, all of one ref."""
    with shipway.Cache.open(root) as cache, cache.new() as work, work.commit() as ref, clock:
        for number in range(count):
            cache.put(f"key-{number}", ref)


def lookup(clock: Clock, root: str, count: int) -> None:
    """Look keys up in random order; the median counts."""
    chance = random.Random(1)
    with shipway.Cache.open(root) as cache:
        for _ in range(LOOKUPS):
            key = f"key-{chance.randrange(count)}"
            with clock:
                found = cache.lookup(key)
            if found is None:
                raise AssertionError(f"{key} was put and is not found")
            found.release()


def make_rows(clock: Clock, database: str, count: int) -> None:
    """Make an SQLite table of so many keys, for the floor of `lookup`."""
    with clock, sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE keys (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        connection.executemany("INSERT INTO keys VALUES (?, 'value')", ((f"key-{number}",) for number in range(count)))


def select(clock: Clock, database: str, count: int) -> None:
    """Select rows by key in random order; the median counts."""
    chance = random.Random(1)
    connection = sqlite3.connect(database)
    for _ in range(LOOKUPS):
        key = f"key-{chance.randrange(count)}"
        with clock:
            connection.execute("SELECT value FROM keys WHERE name = ?", (key,)).fetchone()


def make_records(clock: Clock, root: str, tree: str, count: int) -> None:
    """Make so many refs of a small tree."""
    with shipway.Cache.open(root) as cache, clock:
        for _ in range(count):
            cache.import_tree(tree).release()


def disk_usage(clock: Clock, root: str) -> int:
    """Return how many records the store has, each with its size."""
    with shipway.Cache.open(root) as cache, clock:
        return len(list(cache.disk_usage()))


def prune_dry_run(clock: Clock, root: str) -> int:
    """Say of every record what a prune to half the store's size would do, and why; the answer is how many there are."""
    with shipway.Cache.open(root) as cache:
        half = sum(one.size for one in cache.disk_usage()) // 2
        with clock:
            return len(list(cache.prune(dry_run=True, max_used_space=half)))


def reopen(clock: Clock, root: str) -> None:
    """Open a store, and close it again."""
    with clock:
        shipway.Cache.open(root).close()


def prune(clock: Clock, root: str) -> int:
    """Remove all refs; return how many."""
    with shipway.Cache.open(root) as cache, clock:
        return len(list(cache.prune()))


def main() -> None:
    """Do what the command line says and print what it took."""
    verbs: dict[str, Callable[..., object]] = {
        one.__name__.replace("_", "-"): one
        for one in (
            pack_tree,
            unpack_blob,
            commit_change,
            checksum,
            mount,
            stack,
            extract,
            put_keys,
            lookup,
            make_rows,
            select,
            make_records,
            disk_usage,
            prune_dry_run,
            reopen,
            prune,
        )
    }
    clock = Clock()
    answer = verbs[sys.argv[1]](clock, **json.loads(sys.argv[2]))
    seconds = statistics.median(clock.seconds)
    print(json.dumps({"seconds": seconds, "cpu": clock.cpu / len(clock.seconds), "answer": answer}))


def _pieces(path: str) -> Iterator[bytes]:
    """Yield a file in pieces, as a download comes."""
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield piece


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
