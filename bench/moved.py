"""What moves: requests and bytes of extracts, pulls and pushes, against the limits that they are to keep.

A worker's store is served on loopback; what the client moves is counted, so the figures are the same on any machine and
however busy it is. Exits with 1 if a limit is not kept.

Takes 17 GB of disk.

    python -m bench.moved [--where /var/tmp] [--files 30000] [--size 1000000000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shipway import Cache, LocalImmutableRef, RemoteImmutableRef, Traffic
from shipway.layers.toc import toc_location
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

SMALL = 10_000
"""Bytes of the file that is extracted, and of the one that is changed."""
PLACES = (10, 20, 50, 100)
"""In how many places of a large file a hundredth of it is changed."""
MOST = 3
"""The most of it that may move then, in percent: for a file of a gigabyte, since each place costs a few chunks."""
LARGE = 1_000_000_000


@dataclass(frozen=True)
class Result:
    """What one thing moved, and the most it may: `limit` is of bytes in both directions; None sets none."""

    name: str
    requests: int
    received: int
    sent: int
    request_limit: int | None = None
    limit: int | None = None
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether it is within its limits."""
        bytes_kept = self.limit is None or self.received + self.sent <= self.limit
        return bytes_kept and (self.request_limit is None or self.requests <= self.request_limit)


def make_tree(root: Path, files: int, size: int) -> None:
    """Make a tree of files that do not compress, most of them small, `size` bytes in all."""
    noise = random.Random(11).randbytes(64 << 20)
    chance = random.Random(12)
    weights = [chance.lognormvariate(0, 1) for _ in range(files)]
    scale = size / sum(weights)
    for number, weight in enumerate(weights):
        directory = root / f"d{number // 300:03}"
        if number % 300 == 0:
            directory.mkdir(parents=True)
        length = min(int(weight * scale), len(noise) // 2)
        start = chance.randrange(len(noise) - length)
        (directory / f"file-{number:05}").write_bytes(noise[start : start + length])
    (root / "small").write_bytes(os.urandom(SMALL))


class Workers:
    """Two workers: one that has everything and is served, and one that gets it."""

    def __init__(self, where: Path, one: Cache, other: Cache, reference: str) -> None:
        """Work in the directory `where`."""
        self.where = where
        self.one = one
        self.other = other
        self.reference = reference

    def remote(self, ref: LocalImmutableRef) -> RemoteImmutableRef:
        """Return a ref of the one as the other sees it; it is packed for that."""
        return self.other.remote(f"{self.reference}/shipway:{ref.id}")

    def tables(self, ref: LocalImmutableRef) -> int:
        """Return the bytes of the tables of contents of a ref's layers."""
        store = self.one.store
        blobs = [blob for layer in store.layers(store.records.get(ref.id)) for blob in store.layer_blobs(layer)]
        return sum(place.length for blob in blobs if (place := toc_location(blob)))


@contextmanager
def workers(where: Path) -> Iterator[Workers]:
    """Yield two workers with empty stores."""
    with (
        Cache.open(where / "one") as one,
        Cache.open(where / "other") as other,
        serving(StoreBackend(one)) as url,
    ):
        yield Workers(where, one, other, "oci://" + url.removeprefix("http://"))


def many_files(two: Workers, files: int, size: int) -> Iterator[Result]:
    """Yield the results of a tree of many files."""
    tree = two.where / "tree"
    make_tree(tree, files, size)
    with two.one.import_tree(tree) as base:
        with two.remote(base) as remote:
            whole = remote.size()
            remote.extract(two.where / "out", "small")
            yield _result("extract one file of 10 KB", remote.traffic, 4, whole // 100, f"of {whole} bytes")
        with two.remote(base) as remote:
            remote.extract(two.where / "out", "d000/file-00001")
            yield _result("extract another one, later", remote.traffic, 2)
        with two.remote(base) as remote, remote.pull() as pulled:
            yield _result("pull all of it", remote.traffic)
            first = pulled.push(f"{two.reference}/pushed:one")
            again = pulled.push(f"{two.reference}/pushed:one")
            yield _result("push what is there, under another name", first.traffic, None, SMALL)
            yield _result("push it again", again.traffic, 2, SMALL, "no blob")
            (tree / "small").write_bytes(os.urandom(SMALL))
            yield from _changed(two, tree, base)


def _changed(two: Workers, tree: Path, base: LocalImmutableRef) -> Iterator[Result]:
    with two.one.import_tree(tree, base) as layer, two.remote(layer) as remote, remote.pull():
        limit = int(1.3 * SMALL) + two.tables(layer) + 5_000
        yield _result("pull after one file changed, a layer on top", remote.traffic, None, limit)
    (tree / "small").write_bytes(os.urandom(SMALL))
    with two.one.import_tree(tree) as anew, two.remote(anew) as remote, remote.pull():
        tables = two.tables(anew)
        limit = int(1.3 * SMALL) + tables + 5_000
        yield _result(
            "pull after one file changed, all in one layer", remote.traffic, None, limit, f"table {tables} bytes"
        )


def one_file(two: Workers, size: int) -> Iterator[Result]:
    """Yield the result of a large file a hundredth of which is changed."""
    tree = two.where / "large"
    tree.mkdir()
    noise = random.Random(13)
    with (tree / "file").open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(noise.randbytes(1 << 20))
    with two.one.import_tree(tree) as base, two.remote(base) as remote, remote.pull():
        pass
    for places in PLACES:
        with (tree / "file").open("r+b") as file:
            for number in range(places):
                file.seek(size // places * number + noise.randrange(size // places // 2))
                file.write(noise.randbytes(size // 100 // places))
        with two.one.import_tree(tree) as changed, two.remote(changed) as remote, remote.pull():
            limit = remote.size() * MOST // 100 if size >= LARGE else None
            name = f"pull after 1 % of one file changed, in {places} places"
            yield _result(name, remote.traffic, None, limit, f"of {remote.size()} bytes")


def _result(
    name: str, traffic: Traffic, request_limit: int | None = None, limit: int | None = None, note: str = ""
) -> Result:
    return Result(name, traffic.requests, traffic.received, traffic.sent, request_limit, limit, note)


def _directory(parent: str, name: str) -> Path:
    path = Path(parent) / name
    path.mkdir()
    return path


def _line(one: Result) -> str:
    figures = f"{one.requests:>4} requests  {one.received:>13,} received  {one.sent:>9,} sent"
    return f"{'ok' if one.kept else 'OVER':>4}  {figures}  {one.name}{', ' if one.note else ''}{one.note}"


def main() -> int:
    """Print the results, and return 1 if a limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", type=Path, default=None)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=LARGE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=options.where, prefix="shipway-moved-") as name:
        with workers(_directory(name, "many")) as two:
            results += many_files(two, options.files, options.size)
        with workers(_directory(name, "one")) as two:
            results += one_file(two, options.size)
    for one in results:
        print(json.dumps(asdict(one) | {"kept": one.kept}) if options.json else _line(one))
    return 0 if all(one.kept for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
