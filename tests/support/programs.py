"""Other people's programs, each with files of its own in a test's directory, and a containerd that only we talk to."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_START = 20.0


def need(program: str, package: str) -> str:
    """Return the path of a program, or skip the test by its name."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    return path


def run(*command: str | Path) -> str:
    """Run a program that has to succeed, and return its standard output."""
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')[-2000:]}"
    return done.stdout.decode()


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Copy an image between a registry that speaks plain HTTP and an OCI layout."""
    need("skopeo", "skopeo")
    sides = [
        f"--{side}-tls-verify=false" for side, at in (("src", source), ("dest", target)) if at.startswith("docker:")
    ]
    run("skopeo", "--insecure-policy", "copy", "-q", *sides, *options, source, target)


@dataclass(frozen=True)
class Podman:
    """podman with a storage of its own."""

    root: Path

    def __call__(self, *arguments: str) -> str:
        places = ("--root", f"{self.root}/storage", "--runroot", f"{self.root}/run")
        return run("podman", *places, "--storage-driver", "vfs", *arguments).strip()

    def pull(self, image: str) -> Path:
        """Pull an image of a registry that speaks plain HTTP, and return where its tree is."""
        self("pull", "-q", "--tls-verify=false", f"docker://{image}")
        return Path(self("image", "mount", image))

    def push(self, image: str, target: str, compression: str) -> None:
        self("push", "-q", "--tls-verify=false", "--compression-format", compression, image, f"docker://{target}")


def new_podman(root: Path) -> Podman:
    """Return a podman that keeps all below `root`."""
    need("podman", "podman")
    return Podman(root)


@dataclass(frozen=True)
class Containerd:
    """A containerd, and its clients ctr and ctr-remote."""

    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "containerd.sock"

    def ctr(self, *arguments: str | Path) -> str:
        return run("ctr", "-a", self.socket, *arguments)

    def ctr_remote(self, *arguments: str | Path) -> str:
        need("ctr-remote", "stargz-snapshotter")
        return run("ctr-remote", "-a", self.socket, *arguments)

    def pull(self, image: str) -> None:
        self.ctr("images", "pull", "--plain-http", "--snapshotter", "native", image)

    @contextmanager
    def mounted(self, image: str, path: Path) -> Iterator[Path]:
        """Yield a directory with the tree of an image that was pulled."""
        path.mkdir()
        self.ctr("images", "mount", "--snapshotter", "native", image, path)
        try:
            yield path
        finally:
            self.ctr("images", "unmount", path)


_CONFIG = """version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
]
[grpc]
address = "{root}/containerd.sock"
[ttrpc]
address = "{root}/ttrpc.sock"
"""


@contextmanager
def running_containerd(root: Path) -> Iterator[Containerd]:
    """Run a containerd whose files, state and sockets are below `root`, which has to have a short path."""
    program = need("containerd", "containerd")
    need("ctr", "containerd")
    config = root / "config.toml"
    config.write_text(_CONFIG.format(root=root))
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output)
    containerd = Containerd(root)
    try:
        deadline = time.monotonic() + _START
        while not containerd.socket.exists():
            assert process.poll() is None, f"containerd did not start:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"containerd does not answer:\n{log.read_text()[-2000:]}"
            time.sleep(0.02)
        yield containerd
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
