"""Running a test's Python as a user without privileges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534


def run_as_nobody(arguments: list[str], directory: Path) -> str:
    """Run our Python as nobody in `directory`, which becomes theirs; return its output, or fail with it.

    Skips the test where nobody can read the interpreter or the project, a virtual environment under /root say.
    """
    os.chown(directory, NOBODY, NOBODY)
    for parent in directory.parents:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o011)  # pytest's own directories are closed to others
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        if _works(python, directory):
            break
    else:
        pytest.skip("another user cannot run this Python, or cannot read the project")
    done = _run(python, arguments, directory)
    if done.returncode:
        pytest.fail(done.stdout[-4000:])
    return done.stdout


def _works(python: str, directory: Path) -> bool:
    try:
        return _run(python, ["-c", "import shipway, msgspec, pytest"], directory).returncode == 0
    except OSError:  # an interpreter under /root, say
        return False


def _run(python: str, arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    packages = os.pathsep.join(path for path in sys.path if path.endswith(("site-packages", "src")))
    return subprocess.run(
        [python, *arguments],
        cwd=directory,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": packages,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
