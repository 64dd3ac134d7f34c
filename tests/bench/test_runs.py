"""Small real runs: of jobs, and of the program."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.compare import read
from bench.fingerprint import same
from bench.jobs import JOBS
from bench.measure import command, quietly
from bench.model import Job, Missing, Side, WrongResult
from bench.runner import run
from bench.scene import Scene, open_scene

TINY = {"files": 60, "keys": 50, "records": 10, "layers": 3, "processes": 2, "clients": 2, "process": 1}
"""Amounts of work that show whether a job does what it says."""


@contextmanager
def only(job: Job, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    """The sides of a job that need no program of others but those that every machine has."""
    with job.sides(scene, work) as sides:
        yield [side for side in sides if side.kind != "peer"]


OFTEN = {"pack-small", "unpack-small", "commit-change", "checksum-cold", "push-percent", "pull-one-file"}
"""What `make test` runs; all others take minutes together."""
TRIED = [
    pytest.param(job, id=job.name, marks=pytest.mark.slow if job.name in OFTEN else pytest.mark.long)
    for job in JOBS
    if job.unit in TINY
]


@pytest.mark.parametrize("job", TRIED)
def test_each_job_is_done_and_its_result_is_right(tmp_path: Path, job: Job) -> None:
    tiny = replace(job, quick=(TINY[job.unit],), sides=partial(only, job))
    with open_scene(tmp_path, tmp_path, quick=True) as scene:
        results = run(tiny, scene, rounds=1)
    missing = {one.why for one in results.skipped if not one.side and not one.failed}
    if missing:
        pytest.skip("; ".join(missing))
    assert [one for one in results.skipped if one.failed] == []
    ours = [series for series in results.series if series.kind == "shipway"]
    assert ours
    assert all(len(series.samples) == 1 and series.samples[0].seconds > 0 for series in results.series)


def copy_side(tree: Path, target: Path, expected: str, script: str, scene: Scene) -> Side:
    return Side(
        script,
        "shipway",
        lambda: command(["bash", "-c", script, "bash", tree, target]),
        partial(scene.renew, target),
        lambda: same(expected, target),
    )


def test_a_side_with_a_wrong_result_is_named_and_has_no_figures(tmp_path: Path) -> None:
    @contextmanager
    def sides(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
        tree = scene.tree("small", work)
        scripts = ("cp -a $1/. $2", "cp -a $1/. $2; chmod -R g-r $2", "exit 3", "cp -a $1/. $2 # again")
        yield [copy_side(tree.path, scene.root / "copy", tree.fingerprint(), script, scene) for script in scripts]

    with open_scene(tmp_path, tmp_path) as scene:
        results = run(Job("copy", "A copy", "files", (50,), (), sides), scene, rounds=2)
    assert [series.side for series in results.series] == ["cp -a $1/. $2", "cp -a $1/. $2 # again"]
    assert all(len(series.samples) == 2 for series in results.series)
    assert {(one.side, one.failed) for one in results.skipped} == {
        ("cp -a $1/. $2; chmod -R g-r $2", True),
        ("exit 3", True),
    }
    assert any("ended with 3" in one.why for one in results.skipped)


def test_what_is_missing_is_named_and_skipped(tmp_path: Path) -> None:
    @contextmanager
    def sides(_scene: Scene, _work: int) -> Iterator[Sequence[Side]]:
        absent = Side("absent", "peer", lambda: command(["no-such-program"]), needs=("no-such-program",))
        yield [Side("true", "shipway", lambda: command(["true"])), absent]

    with open_scene(tmp_path, tmp_path) as scene:
        results = run(Job("nothing", "Nothing", "times", (1,), (), sides), scene, rounds=1)
    assert [series.side for series in results.series] == ["true"]
    (skipped,) = results.skipped
    assert skipped.why == "no-such-program is not installed (Debian package no-such-program)"
    assert not skipped.failed
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_memory_and_cpu_are_those_of_all_processes_together() -> None:
    hungry = "import time; held = b'x' * 60_000_000; time.sleep(0.5)"
    both = f'"{sys.executable}" -c "{hungry}" & "{sys.executable}" -c "{hungry}"; wait'
    sample = command(["bash", "-c", both])
    assert sample.memory is not None
    assert 120_000_000 < sample.memory < 240_000_000
    assert sample.cpu


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(WrongResult, match="sh ended with 4: so it is"):
        command(["sh", "-c", "echo so it is >&2; exit 4"])
    with pytest.raises(WrongResult, match="sh ended with 5: or so"):
        quietly(["sh", "-c", "echo or so; exit 5"])


def test_the_c_programs_pack_and_unpack_what_tar_does(tmp_path: Path) -> None:
    with open_scene(tmp_path, tmp_path) as scene:
        try:
            pack, unpack = scene.floor("pack"), scene.floor("unpack")
        except Missing as why:
            pytest.skip(str(why))
        tree = scene.tree("small", 60)
        (tree.path / "link").symlink_to("package-00")
        (tree.path / ("long" * 30)).write_text("its name needs a PAX record")
        (tree.path / "large").write_bytes(b"0123456789" * 300_000)
        blob, target = scene.root / "blob", scene.fresh("target")
        quietly(["tar", "-c", "--zstd", "--format=posix", "-f", blob, "-C", tree.path, "."])
        digests = quietly([unpack, blob, target]).split()
        same(tree.fingerprint(), target)
        assert digests[1] == quietly(["sha256sum", blob]).split()[0]
        (tree.path / ("long" * 30)).unlink()
        digests = quietly([pack, tree.path, blob]).split()
        assert digests[1] == quietly(["sha256sum", blob]).split()[0]
        assert quietly([unpack, blob, scene.fresh("target")]).split() == digests


@pytest.mark.slow
def test_a_run_writes_json_a_table_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, table, plots = tmp_path / "out.json", tmp_path / "out.md", tmp_path / "plots"
    options = ["--where", str(tmp_path), "--quick", "--rounds", "1", "--json", str(report)]
    assert main([*options, "--job", "lookup", "--markdown", str(table), "--plots", str(plots)]) == 0
    assert {series.work for series in read(report).series} == {1_000, 10_000}
    assert "| 10,000 keys | median |" in table.read_text()
    assert "aimed at 30 µs" in table.read_text()
    assert ET.parse(plots / "lookup.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert main(["--check", str(report), str(report)]) == 0
    assert "ok     lookup 1000, shipway: 1.00" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_after_the_last_job_it_had_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "out.json"
    options = ["--where", str(tmp_path), "--quick", "--rounds", "1", "--json", str(report)]
    options += ["--job", "import", "lookup", "start"]
    with subprocess.Popen([sys.executable, "-m", "bench", *options], stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        while not first.stderr.readline().startswith("lookup"):
            pass
        first.send_signal(signal.SIGINT)
        assert first.stderr.read().endswith("with --resume it goes on after the last job in the JSON file\n")
    assert first.returncode == 130
    assert {series.job for series in read(report).series} == {"import"}
    assert list(tmp_path.iterdir()) == [report]

    assert main([*options, "--resume"]) == 0
    shown = capsys.readouterr()
    assert "import 1" not in shown.err
    assert "lookup 1000" in shown.err
    assert "1,000 keys" in shown.out
    assert {series.job for series in read(report).series} == {"import", "lookup", "start"}
    assert main([*options, "--resume", "--rounds", "2"]) == 2
    assert "measured with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupt_while_a_program_is_measured_ends_the_process(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = f"from bench.measure import command; command(['sh', '-c', 'touch {begun}; exec sleep 60'])"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        while not begun.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT


def test_a_job_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--job", "nonsense"]) == 2
    assert "no such job: nonsense; --list names them" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "pack-small" in capsys.readouterr().out
