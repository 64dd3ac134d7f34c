"""Packing and unpacking 33,000 small files, against GNU tar and zstd doing the same work.

All sides read a warm page cache, write to the same file system and take turns (A B C A B C …). Packing: archive,
sha256 of it, zstd level 3, sha256 of that. Unpacking: we check both digests, tar checks nothing. The table of
contents of zstd:chunked, and a digest of each file, come on top.

    python benchmarks/pack.py [--where /dev/shm] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shipway.layers.compression import Compression
from shipway.layers.pack import Packed, pack
from shipway.layers.unpack import unpack
from shipway.trees.diff import everything
from shipway.trees.directory import DirectoryTree
from shipway.trees.writer import TreeWriter

FILES = 33_000
MEAN = 11_200
"""Bytes of a file on average: 370 MB in all."""
MTIME = 1_700_000_000
PIECE = 1 << 20
PACK = "tar -c -C {tree} . | tee >(sha256sum >{diff}) | zstd -q -3 -T2 | tee >(sha256sum >{digest}) >{blob}"
UNPACK = "tar -x --zstd -f {blob} -C {tree}"


@dataclass(frozen=True)
class Result:
    """One side of a comparison: seconds of each round, their median, and the bytes of what it wrote."""

    name: str
    median: float
    seconds: list[float]
    size: int | None


def make_tree(root: Path, files: int = FILES, *, nanoseconds: bool = True) -> int:
    """Make a tree of `files` small files cut from Python's own sources, always the same; return its bytes."""
    library = Path(sysconfig.get_path("stdlib"))
    source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    chance = random.Random(20)
    total = 0
    for number in range(files):
        directory = root / f"package-{number // 800:02}" / f"module_{number // 40 % 20:02}"
        if number % 40 == 0:
            directory.mkdir(parents=True)
        size = min(int(chance.lognormvariate(8.35, 1.4)), 300_000)
        start = chance.randrange(len(source) - size)
        path = directory / f"source_file_{number:05}.py"
        path.write_bytes(source[start : start + size])
        stamp = (MTIME + number) * 1_000_000_000 + (number * 7_919_993 % 1_000_000_000 if nanoseconds else 0)
        os.utime(path, ns=(stamp, stamp))
        total += size
    return total


def pack_tree(tree: Path, blob: Path, compression: Compression = Compression.ZSTD_CHUNKED) -> Packed:
    """Pack a directory as `shipway` does."""
    with DirectoryTree(tree) as source, blob.open("wb", buffering=0) as out:
        return pack(source, everything(source), out, compression=compression)


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces, as a download would come."""
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield piece


def unpack_tree(blob: Path, packed: Packed, tree: Path) -> None:
    """Unpack a blob, all of it verified."""
    with TreeWriter(tree) as sink:
        unpack(pieces(blob), packed.descriptor, packed.diff_id, sink)
        sink.finish()


def shell(command: str) -> None:
    """Run a pipeline; every part of it has to succeed."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def fresh(path: Path) -> Path:
    """Return an empty directory at `path`."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def measure(work: Path, rounds: int) -> list[Result]:
    """Return how long each side took in each round."""
    tree, blob, other, target = work / "tree", work / "blob", work / "other", work / "unpacked"
    size = make_tree(fresh(tree))
    print(f"{FILES} files, {size / 1e6:.0f} MB, in {work}", file=sys.stderr)
    pipeline = PACK.format(tree=tree, blob=other, diff=work / "diff", digest=work / "digest")
    packed = pack_tree(tree, blob)
    shell(pipeline)
    packs = {
        "pack zstd:chunked": lambda: pack_tree(tree, blob),
        "pack zstd": lambda: pack_tree(tree, work / "plain", Compression.ZSTD),
        "tar | zstd": lambda: shell(pipeline),
    }
    unpacks = {
        "unpack": lambda: unpack_tree(blob, packed, target),
        "tar -x, our blob": lambda: shell(UNPACK.format(blob=blob, tree=target)),
        "tar -x, its own": lambda: shell(UNPACK.format(blob=other, tree=target)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*packs, *unpacks)}
    for _ in range(rounds):
        for name, action in packs.items():
            seconds[name].append(timed(action))
    for _ in range(rounds):
        for name, action in unpacks.items():
            fresh(target)
            seconds[name].append(timed(action))
    sizes = dict(zip(packs, (path.stat().st_size for path in (blob, work / "plain", other)), strict=True))
    return [Result(name, statistics.median(values), values, sizes.get(name)) for name, values in seconds.items()]


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", default="/dev/shm", help="a directory on a tmpfs or a journalled file system")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shipway-pack-", dir=options.where) as work:
        results = measure(Path(work), options.rounds)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    for result in results:
        every = "  ".join(f"{value:.2f}" for value in result.seconds)
        size = f"{result.size / 1e6:.1f} MB" if result.size else ""
        print(f"{result.name:18} {result.median:6.2f} s   ({every})   {size}")


if __name__ == "__main__":
    main()
