"""What one tree changes in another, in trees with very many files."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from shipway.trees.diff import changes, layer_changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.stack import OverlayTree


def fill(root: Path, count: int, text: str) -> None:
    """Make so many files, 50 in each directory, that all hold `text`."""
    for number in range(count):
        directory = root / f"package-{number // 50:04d}"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        (directory / f"module_with_a_long_name_{number:06d}.py").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trees", "layer"])
def test_a_comparison_takes_the_memory_of_its_changes(tmp_path: Path, kind: str) -> None:
    peaks = []
    for count in (1000, 6000):
        lower, upper = tmp_path / f"lower-{count}", tmp_path / f"upper-{count}"
        fill(lower, count, "the same")
        fill(upper, count, "the same")
        for root in (lower, upper):
            for base, directories, files in os.walk(root):
                for name in (*directories, *files):
                    os.utime(os.path.join(base, name), ns=(0, 0))
        (upper / "package-0003/new").write_text("new")
        tracemalloc.start()
        if kind == "trees":
            with DirectoryTree(lower) as old, DirectoryTree(upper) as new:
                found = changes(old, new)
        else:
            with OverlayTree([lower]) as below, OverlayTree([lower, upper]) as stacked:
                found = layer_changes(below, stacked)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [entry.path for entry in found] == ["", "package-0003", "package-0003/new"]
    assert (peaks[1] - peaks[0]) / 5000 < 40  # bytes for each file more; its path alone takes 90
