"""Progress is drawn on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from support.program import Program


def on_a_terminal(command: list[str]) -> tuple[bytes, bytes]:
    """Return what a command writes to standard output, a pipe, and to standard error, a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 4096):
                drawn += piece
        except OSError:  # how Linux says that nobody has the other end open
            pass
        os.close(ours)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(30) == 0
    return output, drawn


def test_bars_are_drawn_on_a_terminal(shipway: Program, tree: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--root", str(shipway.root), "commit", str(tree)]
    output, drawn = on_a_terminal(command)
    assert b"import" in drawn
    assert output.decode().strip() == shipway("ls").split()[0]


def test_no_bars_with_json_or_without_a_terminal(shipway: Program, tree: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--root", str(shipway.root), "--json", "commit", str(tree)]
    assert on_a_terminal(command)[1] == b""
    shipway("commit", tree)
    assert shipway.errors == ""
