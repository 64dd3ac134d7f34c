from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.__main__ import main
from bench.compare import FORMAT, compare
from bench.model import Kind, Report, Sample, Series, Skipped

SIDES: dict[str, Kind] = {"shipway": "shipway", "a": "peer", "b": "peer", "c": "floor"}


def report(skipped: tuple[Skipped, ...] = (), **seconds: tuple[float, ...]) -> Report:
    series = tuple(
        Series("pack", 1000, "files", side, SIDES[side], tuple(Sample(value, None, None) for value in values))
        for side, values in seconds.items()
    )
    return Report(FORMAT, {}, {}, {}, series, skipped)


OLD = report(shipway=(1.0, 1.1, 0.9), a=(2.0, 2.2, 1.8), b=(4.0, 4.4, 3.6), c=(0.5, 0.55, 0.45))


def write(path: Path, one: Report) -> str:
    path.write_bytes(msgspec.json.encode(one))
    return str(path)


def check(tmp_path: Path, old: Report, new: Report, *options: str) -> int:
    return main(["--check", write(tmp_path / "old.json", old), write(tmp_path / "new.json", new), *options])


def test_a_slower_machine_is_no_regression(tmp_path: Path) -> None:
    slower = report(shipway=(5.0, 5.5, 4.5), a=(10.0, 11.0, 9.0), b=(20.0, 22.0, 18.0), c=(2.5, 2.75, 2.25))
    assert check(tmp_path, OLD, slower) == 0
    assert [one.factor for one in compare(OLD, slower)] == [pytest.approx(1.0)]


def test_being_slower_beside_the_others_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = report(shipway=(1.5, 1.6, 1.4), a=(2.0, 2.2, 1.8), b=(4.0, 4.4, 3.6), c=(0.5, 0.55, 0.45))
    assert check(tmp_path, OLD, worse) == 1
    assert "WORSE  pack 1000, shipway: 1.50" in capsys.readouterr().out
    assert check(tmp_path, OLD, worse, "--tolerance", "0.6") == 0
    assert check(tmp_path, worse, OLD) == 0, "getting faster is none"


def test_one_peer_that_got_faster_is_none(tmp_path: Path) -> None:
    new = report(shipway=(1.0, 1.1, 0.9), a=(0.5, 0.55, 0.45), b=(4.0, 4.4, 3.6), c=(0.5, 0.55, 0.45))
    assert check(tmp_path, OLD, new) == 0


def test_a_median_that_rose_by_noise_alone_is_none(tmp_path: Path) -> None:
    noisy = report(shipway=(1.5, 2.0, 0.8), a=(2.0, 2.2, 1.8), b=(4.0, 4.4, 3.6), c=(0.5, 0.55, 0.45))
    assert check(tmp_path, OLD, noisy) == 0


def test_what_only_one_run_measured_is_not_compared(tmp_path: Path) -> None:
    assert check(tmp_path, OLD, report(shipway=(9.0, 9.0, 9.0), b=(36.0, 36.0, 36.0))) == 0


def test_a_job_that_shipway_failed_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = Skipped("unpack", 1000, "shipway", "is not the tree it should be", failed=True)
    new = msgspec.structs.replace(OLD, skipped=(failed,))
    assert check(tmp_path, OLD, new) == 1
    assert "FAILED unpack 1000, shipway: is not the tree" in capsys.readouterr().out


def test_files_without_a_common_job_or_of_another_kind_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, OLD, report()) == 2
    assert check(tmp_path, OLD, msgspec.structs.replace(OLD, format=FORMAT + 1)) == 2
    (tmp_path / "text").write_text("no report")
    assert main(["--check", str(tmp_path / "text"), str(tmp_path / "text")]) == 2
    assert main(["--check", str(tmp_path / "none"), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("bench: ") == 4
