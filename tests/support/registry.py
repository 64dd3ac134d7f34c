"""Debian's docker-registry on loopback: open, behind a password, and behind a token service."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipway.references import Reference
from support.token_service import TokenService

USER = "alice"
PASSWORD = "correct horse: battery"
_HTPASSWD = f"{USER}:$2y$05$1Yq8aVbXr0CwTz5KpLmN2edwekYRYCQJZLw7JY10nGy/Zu5nFGoTS\n"
_START = 20.0


@dataclass(frozen=True)
class TokenRegistry:
    """A registry that wants tokens, and the service that sells them."""

    host: str
    service: TokenService


@contextmanager
def docker_registry(root: Path, auth: str = "", http: str = "") -> Iterator[str]:
    """Run a docker-registry that keeps its files in `root`; yields its `host:port`.

    `auth` is YAML for its configuration, `http` more of what stands under that name there.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian package docker-registry)")
    config = root / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:0'{http}}}\n{auth}"
    )
    log = root / "log"
    with log.open("wb") as output:  # a file takes any amount, a pipe that nobody reads would stop it
        process = subprocess.Popen([program, "serve", str(config)], stdout=output, stderr=output)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def blob_file(root: Path, digest: str) -> Path:
    """Return the file in which the registry at `root` keeps a blob."""
    name = digest.removeprefix("sha256:")
    return root / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return where the registry listens, once it does."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"docker-registry did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the `host:port` of a registry that lets everybody in."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def password_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the `host:port` of a registry that lets `USER` in with `PASSWORD`."""
    root = tmp_path_factory.mktemp("password-registry")
    (root / "htpasswd").write_text(_HTPASSWD)
    with docker_registry(root, f"auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n") as host:
        yield host


@pytest.fixture(scope="session")
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenRegistry]:
    """Yield a registry that wants tokens; anybody may pull from `public/…`, `USER` may do anything."""
    root = tmp_path_factory.mktemp("token-registry")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with TokenService(root, USER, PASSWORD).running() as service:
        auth = (
            f"auth: {{token: {{realm: '{service.url}', service: {service.audience}, "
            f"issuer: {service.issuer}, rootcertbundle: {service.certificate}}}}}\n"
        )
        with docker_registry(root, auth) as host:
            yield TokenRegistry(host, service)


@pytest.fixture
def repository() -> str:
    """Return a repository name that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def reference(registry: str, repository: str) -> Reference:
    """Return a repository of the open registry that no other test uses."""
    return Reference.parse(f"oci://{registry}/{repository}")
