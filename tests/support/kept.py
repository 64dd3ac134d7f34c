"""Fixtures: what is kept of remote layers, in a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.local.database import Database
from shipway.local.kept import Kept


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "shipway.db")
    yield database
    database.close()


@pytest.fixture
def kept(tmp_path: Path, database: Database) -> Kept:
    (tmp_path / "kept").mkdir()
    return Kept(tmp_path, database)
