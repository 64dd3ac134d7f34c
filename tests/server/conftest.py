"""Fixtures of this room's tests: the server over plain files, and a client that sends what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.directory_backend import DirectoryBackend
from support.http import Client

from shipway.server import serving


@pytest.fixture
def backend(tmp_path: Path) -> DirectoryBackend:
    """Return an empty backend."""
    return DirectoryBackend(tmp_path / "registry")


@pytest.fixture
def client(backend: DirectoryBackend) -> Iterator[Client]:
    """Yield a client of a server over `backend`."""
    with serving(backend) as url, Client(url) as client:
        yield client
