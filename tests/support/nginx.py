"""nginx on loopback, with a configuration of the test's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.trees import free_port


@contextmanager
def nginx(root: Path, servers: str, ports: int = 1) -> Iterator[list[str]]:
    """Run nginx with `servers`, its `http` block, in which `{0}` and on stand for as many free `host:port`s."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian package nginx-light)")
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(ports)]
    for number, host in enumerate(hosts):
        servers = servers.replace(f"{{{number}}}", host)
    temporary = "".join(
        f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Run by root its workers would be somebody else, who may not read what the test made.
    user = "user root;" if os.getuid() == 0 else ""
    config = root / "nginx.conf"
    config.write_text(
        f"daemon off; {user} worker_processes 1; pid {root}/pid; error_log {root}/error.log;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log off; client_max_body_size 0; {temporary}\n{servers}\n}}\n"
    )
    process = subprocess.Popen(
        [program, "-p", str(root), "-c", str(config), "-e", f"{root}/error.log"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(process, hosts, root / "error.log")
        yield hosts
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], hosts: list[str], log: Path) -> None:
    deadline = time.monotonic() + 20
    for host in hosts:
        name, _, port = host.partition(":")
        while True:
            try:
                socket.create_connection((name, int(port)), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    text = log.read_text() if log.exists() else ""
                    raise AssertionError(f"nginx did not start:\n{text[-2000:]}") from None
                time.sleep(0.02)
