"""Readers fuzzed for a minute: whatever the bytes are, what comes out makes sense or is one of our errors."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 15
TESTS = Path(__file__).parent.parent


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("reader", ["tar", "table", "split", "manifest"])
def test_a_reader_survives_anything(tmp_path: Path, reader: str) -> None:
    for name in ("seeds", "corpus"):
        (tmp_path / name).mkdir()
    options = [f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=10", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzzing", reader, "seeds", "corpus", *options, f"-artifact_prefix={tmp_path}/"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    assert runs, done.stderr[-3000:]
    assert int(runs[1]) > len(list((tmp_path / "seeds").iterdir()))
    print(f"{reader}: {runs[1]} runs")  # noqa: T201  shown with -rP
