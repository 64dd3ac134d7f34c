"""Progress is drawn on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.contents import random_bytes
from support.images import copy_tree
from support.program import Program

from shipway import Cache
from shipway.server import serving
from shipway.server.store_backend import StoreBackend


def on_a_terminal(command: list[str], code: int = 0) -> tuple[bytes, bytes]:
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
        assert process.wait(30) == code
    return output, drawn


def test_bars_are_drawn_on_a_terminal(shipway: Program, tree: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--root", str(shipway.root), "commit", str(tree)]
    output, drawn = on_a_terminal(command)
    assert b"import" in drawn
    assert output.decode().strip() == shipway("ls").split()[0]


def lines_left(drawn: bytes) -> list[str]:
    """Return the lines that a terminal shows in the end: what was drawn, with lines erased as was asked for."""
    lines, at = [""], 0
    for token in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", drawn.decode()):
        if token == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif token == "\x1b[1A":
            at -= 1
        elif token == "\x1b[2K":
            lines[at] = ""
        elif token[0] not in "\x1b\r":
            lines[at] += token
    return [line for line in lines if line.strip()]


@pytest.mark.slow
def test_what_is_left_are_whole_tasks(shipway: Program, tree: Path, tmp_path: Path) -> None:
    changed = copy_tree(tree, tmp_path / "changed")
    (changed / "more").write_bytes(random_bytes(3 << 20))
    base = shipway("commit", tree).strip()
    ref = shipway("commit", changed, "--parent", base).strip()
    program = [sys.executable, "-m", "shipway", "--root"]
    with Cache.open(tmp_path / "worker") as cache, serving(StoreBackend(cache)) as url:
        reference = url.replace("http", "oci") + "/team/image:v1"
        _, drawn = on_a_terminal([*program, str(shipway.root), "push", ref, reference])
        packed, pushed = lines_left(drawn)
        assert re.match(r"pack 2 of 2 .*100% +[\d.]+ MiB", packed)
        assert re.match(r"push 3 of 3 .*100% +[\d.]+ MiB", pushed)
        _, drawn = on_a_terminal([*program, str(tmp_path / "mine"), "pull", reference])
        assert [line.split("  ")[0].split(" ━")[0] for line in lines_left(drawn)] == ["pull 2 of 2"]
        _, drawn = on_a_terminal([*program, str(tmp_path / "mine"), "extract", reference, str(tmp_path / "out")])
        assert all("100%" in line for line in lines_left(drawn))


def test_what_fails_leaves_its_error_alone(tree: Path, tmp_path: Path) -> None:
    (tree / "noise").write_bytes(random_bytes(2 << 20))
    with Cache.open(tmp_path / "worker") as cache, serving(StoreBackend(cache)) as url:
        reference = url.replace("http", "oci") + "/team/image:v1"
        with cache.import_tree(tree) as ref:
            ref.push(reference)
        blob = max((cache.root / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        with blob.open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"damage")
        command = [sys.executable, "-m", "shipway", "--root", str(tmp_path / "mine"), "pull", reference]
        _, drawn = on_a_terminal(command, code=5)
    assert b"pull" in drawn
    (line,) = lines_left(drawn)
    assert line.startswith("shipway: ")


def test_no_bars_with_json_or_without_a_terminal(shipway: Program, tree: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--root", str(shipway.root), "--json", "commit", str(tree)]
    assert on_a_terminal(command)[1] == b""
    shipway("commit", tree)
    assert shipway.errors == ""
