"""Real work on a store, at random, by a process that is made to die or to fail. Tests run this as a program.

It imports everything once, then reads jobs, one JSON document a line, and does each in a child of its own, so
that a death costs a fork and not the start of a Python. Of each child it prints the process id, and later how it ended.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shipway import Cache, CachePolicy, LocalImmutableRef, NotFound, ShipwayError
from shipway.transfer import push as _loaded  # noqa: F401  imported once, before the children are forked

AUDITED = (
    "open",
    "os.",
    "fcntl.",
    "ctypes.call_function",
    "shutil.",
    "tempfile.",
    "socket.",
)
"""Events at which a child may kill itself: nearly each is just before a system call."""
WORDS = ("alpha", "beta", "gamma", "delta")
FAILED = 3
"""Exit code of a child that saw an error which is none of Shipway's."""

Files = dict[str, str]


@contextmanager
def as_user() -> Iterator[None]:
    """Do what a user does in a mounted tree, which fails as files do; it is told as an error of its own."""
    try:
        yield
    except OSError as error:
        raise ShipwayError(f"the user: {error}") from error


class Journal:
    """What was done, each line on the disk before the next step."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.set_inheritable(self._fd, True)

    def write(self, event: str, **values: Any) -> None:
        os.write(self._fd, json.dumps({"event": event, **values}).encode() + b"\n")
        os.fsync(self._fd)


class Work:
    """Random operations on one store."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._random = random.Random(job["seed"])
        self.journal = self._journal = Journal(Path(job["journal"]))
        self._known: dict[str, Files] = job["known"]
        self._remote: str = job["remote"]
        self._images: dict[str, Files] = job["images"]
        self._scratch = Path(job["scratch"])
        self._driver = job["driver"]
        self._root = job["root"]
        self._name = job["seed"]
        self._tolerant: bool = job["tolerant"]
        self._repairing: bool = job.get("repair", True)

    def run(self, steps: int) -> None:
        operations: list[Callable[[Cache], None]] = [
            self.commit,
            self.commit,
            self.commit_and_finalize,
            self.import_tree,
            self.pull,
            self.push,
            self.prune,
            self.merge,
            self.diff,
            self.put,
            self.retain,
            self.take_up_again,
            self.verify,
        ]
        while steps:
            try:
                with Cache.open(self._root, driver=self._driver) as cache:
                    while steps:
                        steps -= 1
                        operation = self._random.choice(operations)
                        self._journal.write("doing", what=operation.__name__)
                        try:
                            operation(cache)
                        except ShipwayError as error:
                            self._failed(error)
            except ShipwayError as error:  # opening and closing may fail too
                steps = max(0, steps - 1)
                self._failed(error)

    def _failed(self, error: ShipwayError) -> None:
        if not self._tolerant:
            raise error
        self._journal.write("error", kind=type(error).__name__, text=str(error))

    # Operations

    def _files(self, below: Files | None = None) -> tuple[Files, Files]:
        """Return what to write, and the tree that makes of `below`."""
        new = {
            self._random.choice(WORDS): f"{self._random.random()}" * self._random.choice((1, 30, 4000))
            for _ in range(self._random.randint(1, 3))
        }
        return new, {**(below or {}), **new}

    def _some(self, cache: Cache) -> tuple[LocalImmutableRef | None, Files]:
        """Return a hold on something that is here, with its files; or on nothing."""
        for ref_id in self._random.sample(sorted(self._known), min(3, len(self._known))):
            try:
                return cache.get(ref_id), self._known[ref_id]
            except NotFound:
                continue
        return None, {}

    def _make(self, cache: Cache, *, finalize: bool) -> None:
        below, files = self._some(cache)
        new, files = self._files(files)
        self._journal.write("may", files=files)
        try:
            with cache.new(below, policy=CachePolicy.RETAIN) as work:
                self._write(work, new)
                done = work.commit()
        finally:
            if below is not None:
                below.release()
        with done:
            if finalize:
                done.finalize()
            self._committed(done, files)

    def _committed(self, ref: LocalImmutableRef, files: Files) -> None:
        self._known[ref.id] = files
        self._journal.write("committed", id=ref.id, files=files)

    @staticmethod
    def _write(work: Any, new: Files) -> None:
        with work.mounted() as path, as_user():
            for name, text in new.items():
                (path / name).write_text(text)

    def commit(self, cache: Cache) -> None:
        self._make(cache, finalize=False)

    def commit_and_finalize(self, cache: Cache) -> None:
        self._make(cache, finalize=True)

    def import_tree(self, cache: Cache) -> None:
        _, files = self._files()
        directory = self._scratch / f"tree-{os.getpid()}-{self._random.random()}"
        with as_user():
            directory.mkdir(parents=True)
            for name, text in files.items():
                (directory / name).write_text(text)
        self._journal.write("may", files=files)
        with cache.import_tree(directory) as ref:
            self._committed(ref, files)

    def pull(self, cache: Cache) -> None:
        tag = self._random.choice(sorted(self._images))
        self._journal.write("may", files=self._images[tag])
        with cache.remote(f"{self._remote}/images:{tag}") as remote, remote.pull() as ref:
            self._committed(ref, self._images[tag])

    def push(self, cache: Cache) -> None:
        ref, _ = self._some(cache)
        if ref is not None:
            with ref:
                cache.push(ref, f"{self._remote}/pushed:t{self._random.randint(0, 3)}")

    def prune(self, cache: Cache) -> None:
        count = self._random.choice((1, 1, 2, max(1, len(self._known) - 8)))
        for ref_id in self._random.sample(sorted(self._known), min(count, len(self._known))):
            self._journal.write("removing", id=ref_id)
            try:
                list(cache.prune(ids=[ref_id]))
            except NotFound:
                pass
            except ShipwayError as error:
                if type(error).__name__ != "Locked":
                    raise
                continue
            self._known.pop(ref_id)

    def merge(self, cache: Cache) -> None:
        self._combine(cache, cache.merge, lambda one, other: {**one, **other})

    def diff(self, cache: Cache) -> None:
        """What is in the upper one and not, or otherwise, in the lower one."""
        self._combine(
            cache,
            lambda refs: cache.diff(*refs),
            lambda one, other: {name: text for name, text in other.items() if one.get(name) != text},
            exact=False,
        )

    def _combine(
        self,
        cache: Cache,
        combine: Callable[[Any], Any],
        model: Callable[[Files, Files], Files],
        *,
        exact: bool = True,
    ) -> None:
        (one, first), (other, second) = self._some(cache), self._some(cache)
        if one is None or other is None:
            for ref in (one, other):
                if ref is not None:
                    ref.release()
            return
        with one, other:
            files = model(first, second)
            # What was merged may itself be a difference, that deletes; so what comes out is taken for what it is.
            self._journal.write("anything")
            with combine([one, other]) as made, made.mounted() as path:
                with as_user():
                    found = {item.name: item.read_text() for item in path.iterdir()}
                if exact and not set(found) <= set(files):
                    raise AssertionError(f"{found} is no merge of {first} and {second}")
                self._journal.write("may", files=found)
                self._journal.write("committed", id=made.id, files=found)
                self._known[made.id] = found

    def put(self, cache: Cache) -> None:
        ref, _ = self._some(cache)
        if ref is not None:
            with ref:
                key = f"{self._name}-{self._random.randint(0, 3)}"
                self._journal.write("putting", key=key, id=ref.id)
                cache.put(key, ref)
                self._journal.write("put", key=key, id=ref.id)

    def retain(self, cache: Cache) -> None:
        new, files = self._files()
        with cache.new(policy=CachePolicy.RETAIN) as work:
            self._write(work, new)
        self._journal.write("retained", id=work.id, files=files)

    def take_up_again(self, cache: Cache) -> None:
        new, files = self._files()
        with cache.new(policy=CachePolicy.RETAIN) as work:
            self._write(work, new)
            self._journal.write("may", files=files)
            done = work.commit()
        done.release()
        more, files = self._files(files)
        self._journal.write("may", files=files)
        with cache.get_mutable(work.id) as again:
            self._write(again, more)
            with again.commit() as done:
                self._committed(done, files)

    def verify(self, cache: Cache) -> None:
        found = cache.verify(repair=self._repairing)
        wrong = [one for one in found if one.kind not in ("lease", "leftover")]  # of others, who died meanwhile
        if wrong and not self._tolerant:
            raise AssertionError(f"the store was damaged: {wrong}")


def kill_at(number: int) -> None:
    """Die at the given audit event."""
    left = number

    def hook(event: str, _args: object) -> None:
        nonlocal left
        if event.startswith(AUDITED):
            left -= 1
            if left == 0:  # not below: the kill is an event too
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def jump_clock(seed: int) -> None:
    """Let the clock jump back and forth by years."""
    jumps = random.Random(seed)
    real, offset = time.time_ns, 0

    def now() -> int:
        nonlocal offset
        if jumps.random() < 0.2:
            offset = jumps.randint(-(10**18), 10**18)
        return real() + offset

    time.time_ns = now
    time.time = lambda: now() / 1e9


@contextmanager
def failing(job: dict[str, Any], journal: Journal) -> Iterator[None]:
    """Let some of the system calls on files of the store fail, if the job says so: see failing.c."""
    if not job.get("failing"):
        yield
        return
    shim = ctypes.CDLL(None)  # it was loaded before all else
    number, rate = getattr(errno, job["failing"][0]), job["failing"][1]
    shim.failing_arm(os.fsencode(os.path.realpath(job["root"])), number, rate, job["seed"])
    try:
        yield
    finally:
        shim.failing_disarm()
        journal.write("injected", count=shim.failing_count())


def child(job: dict[str, Any]) -> int:
    """Do one job; return the exit code."""
    try:
        if job.get("clock"):
            jump_clock(job["seed"])
        for name, value in job.get("limits", {}).items():
            resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
        work = Work(job)
        if job.get("kill_at"):
            kill_at(job["kill_at"])
        with failing(job, work.journal):
            work.run(job["steps"])
    except BaseException:  # noqa: BLE001  reported to the test, whatever it is
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.stderr.write(traceback.format_exc())
        sys.stderr.flush()
        return FAILED
    return 0


def say(**values: int) -> None:
    """Tell whoever started this."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(child(job))
        say(pid=pid)
        _, status = os.waitpid(pid, 0)
        say(status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
