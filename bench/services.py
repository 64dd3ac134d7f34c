"""Servers that jobs talk to, each on a free port of the loopback interface, gone after the block."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ENVIRONMENT, quietly, shipway
from bench.model import Missing
from bench.scene import which

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running server."""

    pid: int
    host: str
    """`127.0.0.1:PORT`, or the path of its socket."""


@contextmanager
def docker_registry(root: Path) -> Iterator[Service]:
    """Run Debian's docker-registry, with its files in `root`."""
    config, log = root / "config.yml", root / "log"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )

    def address() -> str | None:
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        return found[1] if found else None

    with _running(["docker-registry", "serve", config], log, address) as service:
        yield service


@contextmanager
def shipway_serve(root: Path, log: Path) -> Iterator[Service]:
    """Run `shipway serve` of the store at `root`."""

    def address() -> str | None:
        line = log.read_text().strip().splitlines()[:1]
        return str(json.loads(line[0])["url"]).removeprefix("http://") if line and line[0].endswith("}") else None

    with _running([*shipway(root, "--json"), "serve", "--port", "0"], log, address) as service:
        yield service


@contextmanager
def nginx(root: Path, files: Path) -> Iterator[Service]:
    """Run nginx as it serves static files best: sendfile, a process for each core.

    Without `tcp_nopush`, with which one client that waits for each answer gets it 40 ms late.
    """
    port = free_port()
    config = root / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"daemon off; {user} worker_processes auto; pid {root}/pid; error_log {root}/errors;\n"
        "events { worker_connections 1024; }\n"
        "http { sendfile on; access_log off; keepalive_requests 100000000; open_file_cache max=100;\n"
        + "".join(f"{name}_temp_path {root}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"server {{ listen 127.0.0.1:{port}; root {files}; }} }}\n"
    )
    with _running(["nginx", "-c", config, "-e", root / "errors"], root / "log", _when_open(port)) as service:
        yield service


@contextmanager
def rsyncd(root: Path, modules: dict[str, Path]) -> Iterator[Service]:
    """Run an rsync daemon with some directories that may be read and written."""
    port = free_port()
    config = root / "rsyncd.conf"
    owner = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"port = {port}\naddress = 127.0.0.1\nuse chroot = no\n{owner}"
        + "".join(f"[{name}]\npath = {path}\nread only = no\n" for name, path in modules.items())
    )
    argv: list[str | Path] = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    with _running(argv, root / "log", _when_open(port)) as service:
        yield service


@contextmanager
def containerd(root: Path) -> Iterator[Service]:
    """Run a containerd of our own; `host` is its socket. `Missing` if it does not start here."""
    config, at = root / "config.toml", root / "containerd.sock"
    config.write_text(
        f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{at}"\n'
    )

    def address() -> str | None:
        with suppress(Exception):
            quietly(["ctr", "--address", at, "version"])
            return str(at)
        return None

    with _running(["containerd", "--config", config], root / "log", address) as service:
        yield service


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _when_open(port: int) -> Callable[[], str | None]:
    def address() -> str | None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return f"127.0.0.1:{port}"
        return None

    return address


@contextmanager
def _running(argv: list[str | Path], log: Path, address: Callable[[], str | None]) -> Iterator[Service]:
    """Run a server until the end of the block; `address` says where it listens, once it does."""
    program = which(str(argv[0]))
    if program is None:
        raise Missing(f"{argv[0]} is not installed")
    with log.open("wb") as output:  # a file takes any amount, a pipe that nobody reads would stop it
        process = subprocess.Popen(
            [program, *argv[1:]], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=ENVIRONMENT
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while (host := address()) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing(f"{argv[0]} does not run here: {log.read_text()[-300:]}")
            time.sleep(0.02)
        yield Service(process.pid, host)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
