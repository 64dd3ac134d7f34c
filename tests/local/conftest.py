"""Fixtures of this room's tests: open stores on every driver, what is kept of remote layers, and the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.caches import cache, open_cache
from support.kept import database, kept
from support.program import Program

__all__ = ["cache", "database", "kept", "open_cache"]


@pytest.fixture
def program(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Program:
    """Return the program over a store that does not exist yet."""
    return Program(tmp_path / "store", capfdbinary)
