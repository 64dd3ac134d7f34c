"""Fixtures of the hostile archives: a registry that holds anything, a store on each driver, things beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.caches import DRIVERS
from support.directory_backend import DirectoryBackend
from support.hostile_ways import Registry, World
from support.http import Client

from shipway.server import serving


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(DirectoryBackend(tmp_path_factory.mktemp("registry") / "data")) as url, Client(url) as client:
        yield Registry(client)


@pytest.fixture(scope="module", params=DRIVERS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), request.param)
    yield world
    world.close()
