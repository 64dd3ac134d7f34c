"""A worker's server, as a process of its own, that never outlives the block it is used in."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipway.errors import Unavailable

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_LINE = 4096


@contextmanager
def serving(root: Path, log: Path) -> Iterator[str]:
    """Yield the reference of a server of the store at `root`; what it prints on stderr goes to `log`.

    The user's configuration is not its. It is stopped on leaving, and stops by itself should this process be killed.
    Raises `Unavailable` if it does not start.
    """
    command = [sys.executable, "-m", "shipway", "--root", str(root), "--json", "serve", "--port", "0", "--until-eof"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHIPWAY_")}
    environment["SHIPWAY_CONFIG"] = os.devnull
    server = None
    with log.open("wb") as errors:
        try:
            with _signals_held_back():
                server = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
                )
            yield _reference(server, log)
        finally:
            if server is not None:
                _stop(server)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM do what they do after the block, so that no process starts that nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for arrived in received:
        signal.raise_signal(arrived)


def _reference(server: subprocess.Popen[bytes], log: Path) -> str:
    line = _first_line(server)
    try:
        reference = json.loads(line)["reference"]
    except (ValueError, KeyError, TypeError) as error:
        said = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unavailable("the server did not start", where="serve", todo=" ".join(said) or f"see {log}") from error
    return str(reference)


def _first_line(server: subprocess.Popen[bytes]) -> bytes:
    output = server.stdout
    if output is None:
        return b""
    line, deadline = b"", time.monotonic() + START_SECONDS
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(output.fileno(), _LINE) if readable else b""
        if not piece:
            break
        line += piece
    return line


def _stop(server: subprocess.Popen[bytes]) -> None:
    with server:  # closes the pipes and waits
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
