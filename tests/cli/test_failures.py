"""How it fails: one line on standard error, and an exit code that scripts can rely on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.program import Program
from support.trees import free_port

from shipway import errors
from shipway.cli.app import fail


def test_what_does_not_exist_is_3(shipway: Program, tree: Path, tmp_path: Path) -> None:
    ref = shipway("commit", tree).strip()
    assert "nosuchref" in shipway.error("show", "nosuchref", code=3)
    assert "key:nothing" in shipway.error("files", "key:nothing", code=3)
    assert "/no/such" in shipway.error("cat", ref, "/no/such", code=3)
    assert "missing" in shipway.error("commit", tmp_path / "missing", code=3)
    assert "nosuchref" in shipway.error("prune", "nosuchref", code=3)
    assert "mounted" in shipway.error("umount", tmp_path, code=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], '"bogus"'),
        (["commit"], "DIRECTORY"),
        (["ls", "--bogus"], "--bogus"),
        (["ls", "extra"], "extra"),
        (["serve", "--port", "http"], "--port"),
        (["pull", "abc"], "oci://"),
        (["push", "abc", "--parents"], "--parents"),
        (["show", "ftp://host/x"], "ftp://host/x"),
        (["show", "oci://user:secret@host/x"], "password"),
        (["prune", "abc", "--all"], "--all"),
        (["mount", "abc"], "TARGET"),
        (["--driver", "bogus", "ls"], "bogus"),
    ],
)
def test_what_makes_no_sense_is_2(shipway: Program, arguments: list[str], said: str) -> None:
    line = shipway.error(*arguments, code=2)
    assert said in line
    assert "secret" not in line


def test_a_directory_is_not_a_file_to_cat(shipway: Program, tree: Path) -> None:
    ref = shipway("commit", tree).strip()
    assert "/bin" in shipway.error("cat", ref, "/bin", code=2)


def test_a_prefix_that_fits_several_refs_is_2(shipway: Program, tree: Path) -> None:
    first: dict[str, str] = {}
    for number in range(40):
        (tree / "note").write_text(str(number))
        ref = shipway("commit", tree).strip()
        if ref[0] in first:
            shipway.error("show", ref[0], code=2)
            return
        first[ref[0]] = ref
    pytest.fail("ids of 40 refs start with 40 different characters")


def test_a_port_that_nobody_listens_on_is_7(shipway: Program) -> None:
    port = free_port()
    assert str(port) in shipway.error("pull", f"oci://127.0.0.1:{port}/x", code=7)


def test_what_is_mounted_cannot_be_pruned(shipway: Program, tree: Path) -> None:
    parent = shipway("commit", tree).strip()
    (tree / "note").write_text("changed")
    shipway("commit", tree, "--parent", parent)
    assert parent in shipway.error("prune", parent, code=4)


def test_errors_are_json_when_asked_for(shipway: Program) -> None:
    for arguments in (["--json", "show", "nosuchref"], ["show", "nosuchref", "--json"]):
        assert shipway(*arguments, code=3) == ""
        error = json.loads(shipway.errors)["error"]
        assert (error["type"], error["where"], error["exit_code"]) == ("NotFound", "nosuchref", 3)
    shipway("--json", "bogus", code=2)
    assert json.loads(shipway.errors)["error"]["type"] == "Invalid"


def test_an_error_cannot_drive_the_terminal(shipway: Program) -> None:
    assert "\\x1b[2J" in shipway.error("show", "\x1b[2Jx", code=3)


def test_exit_codes_are_those_of_the_reference() -> None:
    text = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()
    table = re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*) \|$", text, re.MULTILINE)
    documented = {name: int(code) for code, names in table for name in re.findall(r"`(\w+)`", names)}
    kinds = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert documented == {name: vars(errors)[name].exit_code for name in kinds}


def test_fail_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(errors.NoSpace("the disk is full", where="/store"), as_json=False) == 8
    assert capsys.readouterr().err == "shipway: /store: the disk is full\n"


def test_a_reader_that_leaves_early_is_no_error(shipway: Program, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    for number in range(3000):
        (wide / f"a-rather-long-file-name-{number:06}").touch()
    ref = shipway("commit", wide).strip()
    process = shipway.popen("files", "-l", ref)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 141


def test_a_full_disk_below_standard_output_is_8(shipway: Program, tree: Path) -> None:
    ref = shipway("commit", tree).strip()
    command = [sys.executable, "-m", "shipway", "--root", str(shipway.root), "files", ref]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 8
    assert done.stderr.startswith(b"shipway: ")
    assert done.stderr.count(b"\n") == 1


def wait_for(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_well_when_it_is_told_to(shipway: Program, number: signal.Signals) -> None:
    with shipway.popen("serve", "--port", "0") as process:
        assert b"oci://127.0.0.1:" in wait_for(process)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_server_ends_with_its_standard_input(shipway: Program) -> None:
    with shipway.popen("--json", "serve", "--port", "0", "--until-eof", stdin=subprocess.PIPE) as process:
        assert json.loads(wait_for(process))["reference"].startswith("oci://127.0.0.1:")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_standard_input_that_has_ended_already_is_a_normal_end_too(shipway: Program) -> None:
    with shipway.popen("--json", "serve", "--port", "0", "--until-eof", stdin=subprocess.DEVNULL) as process:
        assert json.loads(wait_for(process))["reference"].startswith("oci://127.0.0.1:")
        assert process.wait(30) == 0


def test_a_port_that_is_taken_is_7(shipway: Program) -> None:
    with shipway.popen("serve", "--port", "0", "--json") as process:
        port = json.loads(wait_for(process))["url"].rpartition(":")[2]
        assert port in shipway.error("serve", "--port", port, code=7)
        process.terminate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_commit_leaves_no_ref(
    shipway: Program, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for part in range(10_000):
        (tree / f"part{part}").write_bytes(b"x")
    assert shipway("ls") == ""
    ended, errors = interrupt_commit(shipway, tree, number)
    for _ in range(4):  # on a busy machine it may be done before it can be interrupted
        if ended:
            break
        shipway("prune")
        ended, errors = interrupt_commit(shipway, tree, number)
    assert ended == code
    assert errors == (b"shipway: interrupted\n" if number == signal.SIGINT else b"")
    assert shipway("ls") == ""
    assert not has_begun(shipway.root)


def interrupt_commit(shipway: Program, tree: Path, number: signal.Signals) -> tuple[int, bytes]:
    """Send a commit a signal once it has begun; return its exit code and what it said."""
    with shipway.popen("commit", tree) as process:
        while not has_begun(shipway.root) and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors


def has_begun(root: Path) -> bool:
    """Whether there is anything unfinished in a store."""
    return bool(os.listdir(root / "ingest"))


def test_help_and_version_need_no_store(shipway: Program) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", shipway("--version"))
    listed = shipway("--help")
    for command in ("commit", "extract", "key", "serve", "demo"):
        assert command in listed
        assert "--json" in shipway(command, "--help")
    assert shipway.is_untouched


def test_help_imports_nothing_heavy() -> None:
    heavy = ("aiohttp", "urllib3", "zstandard", "isal", "sqlite3", "tenacity", "rich.progress", "shipway.cache")
    script = (
        "import sys; from shipway.cli.app import main; main(['--help']); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
