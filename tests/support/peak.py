"""How much memory a command takes: run as a program, it runs the command line and tells its peak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shipway.cli.app import main


def peak(pid: int | str = "self") -> int:
    """Return the most memory, in bytes, that a process has had at once (`VmHWM` of proc(5)).

    Not `ru_maxrss`, which begins with what the process had that started it.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def measured(root: Path, *arguments: str | Path) -> int:
    """Run the command line with a store, in a process of its own, and return its peak in bytes."""
    command = [sys.executable, "-m", "support.peak", "--root", str(root), *map(str, arguments)]
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | path, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return int(done.stderr.split()[-1])


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.write(f"{peak()}\n")
    sys.exit(code)
