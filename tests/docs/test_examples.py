"""What README.md and the tutorial show works as it is pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.trees import free_port

from shipway.cli.app import app

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    text = (PROJECT / document).read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a new user, who has `shipway` on the path."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHIPWAY_", "XDG_"))}
    return kept | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_python_example_of_the_readme_works(environment: dict[str, str]) -> None:
    [code] = blocks("README.md", "python")
    assert "entries=1" in run([sys.executable, "-c", code], environment)
    home = Path(environment["HOME"])
    assert (home / "from-python/hello.txt").read_text() == "Hello from a ref.\n"
    assert (home / ".local/share/shipway/shipway.db").exists()


def test_the_shell_example_of_the_readme_works(environment: dict[str, str]) -> None:
    [code] = blocks("README.md", "sh")
    output = run(["sh", "-euc", code], environment)
    assert "Hello from a ref.\n" in output
    assert (Path(environment["HOME"]) / "from-shell/hello.txt").read_text() == "Hello from a ref.\n"


def test_the_readme_examples_have_few_lines() -> None:
    [python] = blocks("README.md", "python")
    [shell] = blocks("README.md", "sh")
    assert len([line for line in python.splitlines() if line and not line.startswith("import")]) <= 5
    assert len(shell.splitlines()) <= 5


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(environment: dict[str, str]) -> None:
    code = "".join(blocks("docs/tutorial.md", "sh")).replace("5000", str(free_port()))
    # Nothing that the tutorial starts may outlive a failure of it.
    output = run(["sh", "-euc", "trap 'kill ${server-} 2> /dev/null || :' EXIT\n" + code], environment)
    assert "be kind\nbe brief\n" in output
    [python] = blocks("docs/tutorial.md", "python")
    assert len(run([sys.executable, "-c", python], environment).split()) == 3


def test_links_between_the_documents_lead_somewhere() -> None:
    documents = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    documents += sorted((PROJECT / "docs").rglob("*.md"))
    broken = []
    for document in documents:
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            target = link.partition("#")[0]
            if target and "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(PROJECT)}: {link}")
    assert broken == []


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "docs/how-to.md", "docs/tutorial.md", "docs/design.md"]
)
def test_every_command_that_a_document_names_exists(path: str) -> None:
    text = (PROJECT / path).read_text(encoding="utf-8")
    used = re.findall(r"\bshipway(?: --json| --(?:root|remote|driver) \S+)* ([a-z]+)\b", text)
    assert set(used) <= set(app)
