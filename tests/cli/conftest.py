"""A program to call, with a store of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import Program


@pytest.fixture
def shipway(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Program]:
    handler = signal.getsignal(signal.SIGTERM)
    yield Program(tmp_path / "store", capfdbinary)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small tree."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"#!/bin/sh\n" * 100)
    (root / "bin/tool").chmod(0o755)
    (root / "bin/link").symlink_to("tool")
    (root / "data").write_bytes(bytes(range(256)))
    (root / "note").write_text("grüße\n")
    return root
