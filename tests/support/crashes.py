"""Running workers that die or fail, and checking what they left against what they said they had done."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shipway import Cache, Invalid, LocalImmutableRef, NotFound
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

WORKER = Path(__file__).parent.parent / "crash" / "worker.py"
Files = dict[str, str]
Job = dict[str, Any]


class Ground:
    """A store to be worked on by processes that die, a second one that is served, and the journals."""

    def __init__(
        self,
        directory: Path,
        driver: str,
        remote: str,
        images: dict[str, Files],
        *,
        root: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.root = root
        self.driver = driver
        self.deaths = 0
        self.errors: Counter[str] = Counter()
        self.injected = 0
        self._environment = {**os.environ, **environment}
        self._directory = directory
        self._remote = remote
        self._images = images
        self._number = 0
        self._committed: dict[str, Files] = {}
        self._retained: dict[str, Files] = {}
        self._possible: list[Files] = []
        self._keys: dict[str, set[str | None]] = {}  # what each may name; None: nothing
        self._removing: set[str] = set()
        self._workers: list[subprocess.Popen[str]] = []

    def job(self, seed: int, **options: Any) -> Job:
        """Return a job for a worker, with a journal of its own."""
        self._number += 1
        return {
            "seed": seed,
            "journal": str(self._directory / f"journal-{self._number}"),
            "known": dict(self._committed) if options.pop("alone", True) else {},
            "remote": self._remote,
            "images": self._images,
            "scratch": str(self._directory / "scratch"),
            "driver": self.driver,
            "root": str(self.root),
            "steps": 30,
            "tolerant": False,
            **options,
        }

    def run(self, jobs: Sequence[Job], delays: Sequence[float | None] = ()) -> list[int]:
        """Run jobs at once, each killed after its delay, if it has one; return how each ended (-9: killed)."""
        while len(self._workers) < len(jobs):
            self._workers.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=self._environment,
                )
            )
        delays = delays or [None] * len(jobs)
        with ThreadPoolExecutor(len(jobs)) as pool:
            codes = list(pool.map(_run, self._workers, jobs, delays))
        for job in jobs:
            self._read(Path(job["journal"]))
        self.deaths += codes.count(-signal.SIGKILL)
        return codes

    def _read(self, journal: Path) -> None:
        text = journal.read_text() if journal.exists() else ""
        lines = text.split("\n")[:-1]  # death may cut the last one off, which then tells of nothing done
        for line in lines:
            event = json.loads(line)
            kind = event["event"]
            if kind == "committed":
                self._committed[event["id"]] = event["files"]
            elif kind == "retained":
                self._retained[event["id"]] = event["files"]
            elif kind == "may":
                self._possible.append(event["files"])
            elif kind == "putting":
                self._keys.setdefault(event["key"], {None}).add(event["id"])
            elif kind == "put":
                self._keys[event["key"]] = {event["id"]}
            elif kind == "removing":
                self._removing.add(event["id"])
            elif kind == "error":
                self.errors[event["kind"]] += 1
            elif kind == "injected":
                self.injected += event["count"]

    def check(self) -> None:
        """Open the store and compare it with the journals."""
        with Cache.open(self.root, driver=self.driver) as cache:
            found = cache.verify()
            assert found == [], found
            assert not [row.id for row in cache.disk_usage() if row.in_use]
            self._check_leftovers(cache)
            self._check_committed(cache)
            self._check_visible(cache)
            for key, ids in self._keys.items():
                with_key = cache.lookup(key)
                if with_key is None:
                    assert None in ids or ids & self._removing, f"the key {key} is lost"
                else:
                    assert with_key.id in ids
                    with_key.release()

    def _check_leftovers(self, cache: Cache) -> None:
        assert os.listdir(self.root / "ingest") == []
        assert set(os.listdir(self.root / "locks")) == {"opening", cache.store.leases.instance}
        assert len(os.listdir(self.root / "mounts")) <= 1
        known = cache.store.records.known_snapshots()
        assert set(os.listdir(self.root / "snapshots")) <= {key for key in known if key}

    def _check_committed(self, cache: Cache) -> None:
        for ref_id, files in list(self._committed.items()):
            try:
                with cache.get(ref_id) as ref:
                    assert _shown(ref) == files, ref_id
            except NotFound:
                assert ref_id in self._removing, f"{ref_id} was committed and is lost"
            if ref_id in self._removing:
                # Whether it went or not is settled by now.
                self._removing.discard(ref_id)
                if cache.store.records.find(ref_id) is None:
                    del self._committed[ref_id]
                    self._keys = {key: ids for key, ids in self._keys.items() if ref_id not in ids}
        for ref_id, files in self._retained.items():
            with cache.get_mutable(ref_id) as work, work.mounted() as path:
                assert {item.name: item.read_text() for item in path.iterdir()} == files
            list(cache.prune(ids=[ref_id]))
        self._retained.clear()

    def _check_visible(self, cache: Cache) -> None:
        """Check that no tree is visible that nobody meant to make; and do away with those that nobody knows."""
        for row in list(cache.disk_usage()):
            if row.id in self._committed:
                continue
            try:
                with cache.get(row.id) as ref:
                    if cache.store.records.get(row.id).kind == "layer":
                        shown = _shown(ref)  # a layer below that of an image is an image of its own here
                        assert shown in self._possible or shown in self._images.values(), f"{row.id} is half-made"
            except Invalid:  # a mutable one: whoever made it died with it, or it can be taken up again
                pass
        self._possible = list(self._committed.values()) + [
            files for files in self._possible[-200:] if files not in self._committed.values()
        ]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.communicate()


def _run(worker: subprocess.Popen[str], job: Job, delay: float | None) -> int:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    pid = json.loads(worker.stdout.readline())["pid"]
    if delay is not None:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status: int = json.loads(worker.stdout.readline())["status"]
    return status


def _shown(ref: LocalImmutableRef) -> Files:
    with ref.mounted(readonly=True) as path:
        return {item.name: item.read_text() for item in path.iterdir()}


@contextmanager
def ground(
    directory: Path, driver: str, root: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Ground]:
    """Yield a store to work on, with a served one beside it; `environment` is added to that of the workers."""
    (directory / "scratch").mkdir()
    with Cache.open(directory / "served", driver="native") as other:
        images = _make_images(other)
        with serving(StoreBackend(other)) as url:
            remote = "oci://" + url.removeprefix("http://")
            place = Ground(
                directory, driver, remote, images, root=root or directory / "store", environment=environment or {}
            )
            try:
                yield place
            finally:
                place.close()


def _make_images(cache: Cache) -> dict[str, Files]:
    """Make chains of one to three layers, with tags in the repository `images`."""
    images: dict[str, Files] = {}
    files: Files = {}
    below: LocalImmutableRef | None = None
    chance = random.Random(7)
    for number in range(3):
        files = {**files, f"layer{number}": f"{chance.random()}" * 3000}
        with cache.new(below) as work:
            with work.mounted() as path:
                (path / f"layer{number}").write_text(files[f"layer{number}"])
            below = work.commit()
        below.finalize()
        cache.store.tags.put("images", f"image{number}", record=below.id)
        images[f"image{number}"] = files
    return images
