"""The main job: it says that all is well only when it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.trees import describe, make_varied_tree

from shipway.cli.demonstration import conclude
from shipway.demo.changes import ADDED, apply, expect, plan_changes
from shipway.demo.job import run
from shipway.demo.report import Report, Target
from shipway.errors import Corrupt, Invalid, ShipwayError
from shipway.trees.compare import differences, look


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree with everything in it, and enough text to choose from."""
    root = make_varied_tree(tmp_path / "tree")
    (root / "lib").mkdir()
    for number in range(30):
        (root / f"lib/module{number:02}.py").write_bytes(os.urandom(300 * (number + 1)))
    (root / "small").mkdir()
    (root / "small/inner").write_text("removed with its directory")
    return root


def test_everything_arrives_as_it_left(tree: Path, tmp_path: Path) -> None:
    before = describe(tree)
    (tmp_path / "work").mkdir()
    report = run(tree, work=tmp_path / "work")
    assert report.mismatches == ()
    assert [(target.what, target.met) for target in report.targets if "push" in target.what] == [
        ("push of one changed file", True)
    ]
    assert [(step.worker, step.what) for step in report.steps] == [
        ("A", "commit"),
        ("A", "change"),
        ("A", "compare"),
        ("A", "key put"),
        ("A", "serve"),
        ("B", "key get"),
        ("B", "extract"),
        ("B", "compare"),
        ("B", "pull"),
        ("B", "compare"),
        ("B", "change"),
        ("B", "push"),
        ("A", "read"),
        ("A", "compare"),
    ]
    assert describe(tree) == before


def test_a_byte_that_changed_on_the_way_is_found_and_named(tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    def spoil(what: str) -> None:
        if what == "worker B: compare what B pulled":
            for base, _, names in os.walk(work / "b" / "snapshots"):
                for name in set(names) & {"module15.py"}:
                    path = Path(base, name)
                    status, content = path.stat(), bytearray(path.read_bytes())
                    content[7] ^= 1
                    path.write_bytes(content)
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    report = run(tree, work=work, announce=spoil)
    assert not report.ok
    assert report.mismatches[0].startswith("what B pulled: /lib/module15.py: content: ")
    with pytest.raises(Corrupt, match=r"/lib/module15\.py"):
        conclude(report)


def test_a_figure_that_is_missed_is_a_failure() -> None:
    missed = Target("extract of one file", moved=201, limit=200)
    report = Report("tree", 1, 1, ("native", "native"), (), (missed,), ())
    assert not report.ok
    with pytest.raises(ShipwayError, match="extract of one file: moved 201 bytes"):
        conclude(report)


def test_the_changes_are_what_is_expected_of_them(tree: Path) -> None:
    source = look(tree)
    plan = plan_changes(source)
    apply(plan, tree)
    expected, actual = expect(plan, source, look(tree)), look(tree)
    assert differences(expected, actual) == []
    assert plan.deleted not in actual
    assert plan.removed in source
    assert plan.removed not in actual
    assert actual[plan.chmodded].mode == 0o600
    assert f"{ADDED}/hard-link" in actual[f"{ADDED}/notes.txt"].names


def test_a_change_that_was_not_planned_is_a_difference(tree: Path) -> None:
    source = look(tree)
    plan = plan_changes(source)
    apply(plan, tree)
    (tree / plan.sample).write_bytes(b"other")
    assert {one.path for one in differences(expect(plan, source, look(tree)), look(tree))} == {plan.sample}


def test_a_tree_with_too_few_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/one").write_text("one")
    with pytest.raises(Invalid, match="1 non-empty file"):
        run(tmp_path / "tree")


def servers_below(path: Path) -> list[int]:
    """Return the processes that were given `path`, or something in it, on their command line."""
    found = []
    for name in os.listdir("/proc"):
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:  # no process, or one that has just ended
            continue
        if name.isdecimal() and int(name) != os.getpid() and b"serve" in command and os.fsencode(path) in command:
            found.append(int(name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_never_outlives_the_demo(tree: Path, tmp_path: Path, number: signal.Signals) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    command = [sys.executable, "-m", "shipway", "demo", "--tree", str(tree)]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(place)}, stderr=subprocess.DEVNULL) as demo:
        while not servers_below(place):
            assert demo.poll() is None, "it ended before its server was seen"
            time.sleep(0.002)
        demo.send_signal(number)
    assert demo.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    deadline = time.monotonic() + 20
    while servers_below(place) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert servers_below(place) == []
    if number != signal.SIGKILL:
        assert os.listdir(place) == []


@pytest.mark.slow
def test_the_demo_runs_on_the_standard_library(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shipway", "--json", "demo"]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["files"] > 1000
    assert [target["met"] for target in report["targets"]] == [True, True]
    assert os.listdir(tmp_path) == []
