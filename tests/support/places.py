"""The kinds of places that remotes are at, each made ready for tests: real servers, directories, files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from shipway.references import Reference
from shipway.remotes import Remote, open_remote
from shipway.remotes.fallback import FallbackRemote
from shipway.remotes.spooled import SpooledRanges
from shipway.server import serving
from support.buckets import BUCKET, S3Server, azure_environment, azurite, gcs_environment, s3_environment, s3_server
from support.directory_backend import DirectoryBackend


@dataclass(frozen=True)
class Place:
    """Somewhere that has repositories, and what things cost there."""

    kind: str
    reference: Callable[[str], str]
    """Gives the reference of a repository by its name."""
    blob_requests: int = 1
    """To send a small blob."""
    manifest_requests: int = 1
    """To send a manifest under a tag, its blobs having just been sent."""
    manifest_copies: int = 1
    """How often its bytes go over the wire then."""
    conditions: Literal["all", "absence", "none", "unknown"] = "all"
    """On what a tag can be written: on what it names or that it is absent, on the latter, or on nothing."""

    def open(self, repository: str) -> Remote:
        return open_remote(Reference.parse(self.reference(repository)))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Have environment variables set for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def registry_place(registry: str) -> Place:
    return Place("registry", lambda name: f"oci://{registry}/{name}", blob_requests=2, conditions="none")


@dataclass(frozen=True)
class WrappedPlace(Place):
    """A place whose remotes have all decorators around them."""

    staging: Path = Path()

    def open(self, repository: str) -> Remote:
        return SpooledRanges(FallbackRemote(super().open(repository)), self.staging)


@pytest.fixture(scope="session")
def wrapped_place(registry_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    staging = tmp_path_factory.mktemp("staging")
    return WrappedPlace("wrapped", registry_place.reference, blob_requests=2, conditions="none", staging=staging)


@pytest.fixture(scope="session")
def worker_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield this project's own server."""
    with serving(DirectoryBackend(tmp_path_factory.mktemp("worker"))) as url:
        host = url.removeprefix("http://")
        yield Place("worker", lambda name: f"oci://{host}/{name}", blob_requests=2, conditions="none")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Yield an S3 server, with credentials for it in the environment."""
    with s3_server() as server, environment(**s3_environment()):
        yield server


@pytest.fixture(scope="session")
def s3_place(s3: S3Server) -> Place:
    return Place(
        "s3",
        lambda name: f"s3://{BUCKET}/{name}?endpoint_url={s3.url}",
        manifest_requests=2,
        manifest_copies=2,
    )


@pytest.fixture(scope="session")
def gs_place(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield Google's client with moto's server: what the two services have in common, which is all but conditions."""
    with environment(**gcs_environment(tmp_path_factory.mktemp("gcs"), s3.url)):
        yield Place(
            "gs", lambda name: f"gs://{BUCKET}/{name}", manifest_requests=2, manifest_copies=2, conditions="unknown"
        )


@pytest.fixture(scope="session")
def az_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with azurite(tmp_path_factory.mktemp("azurite")) as url, environment(**azure_environment()):
        yield Place(
            "az", lambda name: f"az://{BUCKET}/{name}?endpoint_url={url}", manifest_requests=2, manifest_copies=2
        )


@pytest.fixture(scope="session")
def file_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("bucket")
    return Place(
        "file", lambda name: f"file://{root}/{name}", manifest_requests=2, manifest_copies=2, conditions="absence"
    )


@pytest.fixture(scope="session")
def layout_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("layouts")
    return Place("layout", lambda name: f"oci-layout://{root}/{name}")


PLACES = ["registry", "wrapped", "worker", "file", "s3", "gs", "az", "layout"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """Return a place; each test runs with every one."""
    value: Place = request.getfixturevalue(f"{request.param}_place")
    return value
