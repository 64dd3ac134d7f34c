"""How long it takes to show a chain of layers: mount and unmount of an overlay from Python, beside mount(8).

Run as root: `python benchmarks/mount.py [--json] [--rounds N] [--directory DIR]`. Times are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shipway.errors import ShipwayError
from shipway.refs import Mount
from shipway.snapshots.mount import mount_all, unmount
from shipway.snapshots.overlay import OverlayDriver
from shipway.trees.entry import Entry

LAYERS = (10, 100, 128, 400)
DIRECTORIES = 5
FILES = 20


def make_chain(driver: OverlayDriver, count: int) -> list[str]:
    """Make a chain of committed layers with some files in each, and an active one on top; return its keys."""
    chain: list[str] = []
    for number in range(count):
        chain.append(f"c{count}l{number}")
        with driver.writer(chain) as sink:
            for index in range(FILES):
                path = f"d{index % DIRECTORIES}/f{number}-{index}"
                sink.add(Entry(path=path, kind="reg", mode=0o644, size=4), b"text")
            sink.finish()
    chain.append(f"c{count}top")
    driver.prepare(chain)
    return chain


def median_ms(action: Callable[[], None], rounds: int) -> float:
    """Return the median time of an action in milliseconds."""
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def with_mount8(mounts: list[Mount], target: Path) -> None:
    """Mount and unmount with the commands."""
    for one in mounts:
        subprocess.run(
            ["mount", "-t", one.type, "-o", ",".join(one.options), one.source, target], check=True, capture_output=True
        )
    subprocess.run(["umount", target], check=True)


def measure(root: Path, rounds: int) -> list[dict[str, object]]:
    """Return a row for each number of layers."""
    driver = OverlayDriver(root / "store")
    target = root / "target"
    target.mkdir()
    rows: list[dict[str, object]] = []
    for count in LAYERS:
        chain = make_chain(driver, count)
        frozen = driver.mounts(chain[:-1], readonly=True)

        def shown(chain: list[str] = chain) -> None:
            with driver.mounted(chain, readonly=False) as path:
                os.stat(path)

        def fixed(frozen: list[Mount] = frozen) -> None:
            mount_all(frozen, target)
            unmount(target)

        def old_call(frozen: list[Mount] = frozen) -> None:
            mount_all(frozen, target, how="mount")
            unmount(target)

        row: dict[str, object] = {
            "layers": count,
            "mounted() writable": median_ms(shown, rounds),
            "mount_all + unmount, read-only": median_ms(fixed, rounds),
            "the same by mount(2)": median_ms(old_call, rounds),
        }
        try:
            row["mount(8) + umount(8)"] = median_ms(partial(with_mount8, frozen, target), min(rounds, 10))
        except subprocess.CalledProcessError:
            row["mount(8) + umount(8)"] = None  # more than a page of options
        rows.append(row)
    driver.close()
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--directory", type=Path, help="where to make the layers; default: a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        try:
            rows = measure(Path(root), options.rounds)
        except ShipwayError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    if options.json:
        print(json.dumps(rows))
        return 0
    names = list(rows[0])
    print("  ".join(f"{name:>{max(len(name), 8)}}" for name in names))
    for row in rows:
        cells = ("refused" if row[name] is None else row[name] for name in names)
        print(
            "  ".join(
                f"{cell:>{max(len(name), 8)}.3f}" if isinstance(cell, float) else f"{cell:>{max(len(name), 8)}}"
                for name, cell in zip(names, cells, strict=True)
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
