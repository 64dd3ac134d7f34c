"""The command line, to be called by tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shipway.cli.app import main


class Program:
    """Runs `shipway` with `--root`; `code` is the exit code that is expected."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self.root = root
        self._capture = capture
        self.errors = ""

    def raw(self, *args: str | Path, code: int = 0) -> bytes:
        """Run it in this process and return what it wrote to standard output."""
        self._capture.readouterr()
        actual = main(["--root", str(self.root), *map(str, args)])
        output, errors = self._capture.readouterr()
        self.errors = errors.decode()
        assert actual == code, f"exit code {actual}: {self.errors}"
        return output

    def __call__(self, *args: str | Path, code: int = 0) -> str:
        return self.raw(*args, code=code).decode()

    def json(self, *args: str | Path) -> Any:
        """Run it with --json and return the document."""
        return json.loads(self("--json", *args))

    def error(self, *args: str | Path, code: int) -> str:
        """Run what must fail and return the one line that says why."""
        assert self(*args, code=code) == ""
        assert self.errors.count("\n") == 1
        assert self.errors.startswith("shipway: ")
        return self.errors

    def popen(self, *args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start it as a process of its own."""
        command = [sys.executable, "-m", "shipway", "--root", str(self.root), *map(str, args)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    @property
    def is_untouched(self) -> bool:
        """Whether no store was made."""
        return not os.path.exists(self.root)
