"""Running programs and measuring them: wall clock, CPU and memory of the whole process tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench.model import Sample, WrongResult

PROJECT = Path(__file__).resolve().parent.parent
LOOK_EVERY = 0.02
"""Seconds between two looks at how much memory is taken, after more frequent ones at first; each takes about 0.1 ms."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "PYTHONPATH": str(PROJECT)
}
"""A package that is installed has its bytecode; without, every process would compile it again."""
_TICK = os.sysconf("SC_CLK_TCK")
_LAST_WORDS = 600


def command(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    services: Iterable[int] = (),
) -> Sample:
    """Run a program to its end and return what it took; `WrongResult` if it fails.

    Args:
        argv: the program and its arguments.
        cwd: where it runs.
        env: variables beside those of this process.
        services: daemons that do its work: what they use meanwhile counts.
    """
    return _run(argv, cwd, env, services)[0]


def pipeline(script: str, *arguments: str | Path, cwd: Path | None = None) -> Sample:
    """Run a bash script, in which everything has to succeed, and return what it took; `$1` … are `arguments`."""
    return command(["bash", "-euo", "pipefail", "-c", script, "bash", *arguments], cwd=cwd)


def inner(argv: Sequence[str | Path], *, services: Iterable[int] = ()) -> tuple[Sample, Any]:
    """Run a program that measures a part of itself; return that, with the memory of all of it, and its answer.

    It prints one line of JSON: `seconds`, and perhaps `cpu` and `answer`.
    """
    whole, said = _run(argv, None, None, services)
    document = json.loads(said.splitlines()[-1])
    return Sample(document["seconds"], document.get("cpu"), whole.memory), document.get("answer")


def quietly(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program that is not measured and return what it says; `WrongResult` if it fails."""
    done = subprocess.run(argv, cwd=cwd, env={**ENVIRONMENT, **(env or {})}, capture_output=True, check=False)
    if done.returncode:
        raise _failure(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout.decode(errors="replace")


def worker(verb: str, **arguments: object) -> list[str | Path]:
    """Return the command that does `verb` of `bench.worker` with the library, in a fresh process."""
    return [sys.executable, "-m", "bench.worker", verb, json.dumps(arguments, default=str)]


def shipway(root: Path, *arguments: str | Path) -> list[str | Path]:
    """Return the command line of Shipway, as a user would call it."""
    return [Path(sys.executable).with_name("shipway"), "--root", root, *arguments]


def _run(
    argv: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str] | None, services: Iterable[int]
) -> tuple[Sample, str]:
    servers = tuple(services)
    served = sum(map(cpu_of, servers))
    environment = {**ENVIRONMENT, **(env or {})}
    begun = time.perf_counter()
    with subprocess.Popen(argv, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            with _Watcher(process.pid, servers) as watcher:
                said, complaints = _output(process)
                _, status, used = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - begun
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise _failure(argv, process.returncode, complaints or said)
    cpu = used.ru_utime + used.ru_stime + sum(map(cpu_of, servers)) - served
    return Sample(seconds, cpu, watcher.most or None), said.decode(errors="replace")


def _output(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return all that a process says on both outputs, without waiting for its exit code."""
    complaints: list[bytes] = []
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both outputs are pipes")
    reader = threading.Thread(
        target=lambda stream: complaints.append(stream.read()), args=(process.stderr,), daemon=True
    )
    reader.start()
    said = process.stdout.read()
    reader.join()
    return said, b"".join(complaints)


def _failure(argv: Sequence[str | Path], code: int, said: bytes) -> WrongResult:
    words = " ".join(said.decode(errors="replace").split())[-_LAST_WORDS:]
    return WrongResult(f"{Path(argv[0]).name} ended with {code}: {words}")


class _Watcher:
    """Looks at the memory of a process tree as long as its block lasts."""

    def __init__(self, pid: int, servers: Iterable[int]) -> None:
        self.most = 0
        """The most bytes it saw; 0 if the process was gone before it looked."""
        self._pids = (pid, *servers)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = 0.002
        while not self._done.wait(pause):
            self.most = max(self.most, sum(map(memory_of, self._pids)))
            pause = min(2 * pause, LOOK_EVERY)


def tree_of(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, at = [pid], 0
    while at < len(found):
        try:
            for thread in os.listdir(f"/proc/{found[at]}/task"):
                with open(f"/proc/{found[at]}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended
        at += 1
    return found


def memory_of(pid: int) -> int:
    """Return the most bytes that a process and all that descend from it have each had resident."""
    return sum(map(_high_water, tree_of(pid)))


def _high_water(pid: int) -> int:
    """Return the most bytes that a process has had resident; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    at = text.find(b"VmHWM:")
    return 0 if at < 0 else int(text[at + 6 :].split(None, 1)[0]) * 1024


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process and its children have used, in steps of a clock tick."""
    total = 0
    for one in tree_of(pid):
        try:
            with open(f"/proc/{one}/stat", "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICK
