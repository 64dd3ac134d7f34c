"""The reference says what the code says."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import shipway
from shipway.cli.app import COMMANDS, GROUPS, app

PROJECT = Path(__file__).parents[2]


def test_the_python_reference_is_up_to_date() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_is_in_the_python_reference() -> None:
    text = (PROJECT / "docs/reference/api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `(\w+)`", text, re.MULTILINE))
    assert documented == set(shipway.__all__) - {"__version__"}


PLAIN_NAME = rf"^(?:(?:{'|'.join(GROUPS)}) )?[a-z]+"


def commands() -> set[str]:
    names = {name for name in app if not name.startswith("-")}
    groups = {f"{group} {name}" for group in GROUPS for name in app[group] if not name.startswith("-")}
    return (names - set(GROUPS)) | groups


def test_every_command_and_option_is_in_the_command_line_reference() -> None:
    text = (PROJECT / "docs/reference/cli.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    usages = [usage for heading in headings for usage in re.findall(r"`([^`]*)`", heading)]
    documented = {name for usage in usages for name in re.findall(PLAIN_NAME, usage)}
    assert documented == commands()
    options = set(re.findall(r"--[a-z-]+", "".join(headings)))
    assert options == {option for command in commands() for option in options_of(command.split())}


def test_what_help_says_of_a_command_is_what_the_command_says_of_itself() -> None:
    for place, summary in [*COMMANDS.items(), *GROUPS.values()]:
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(f"shipway.cli.{module}"), name)
        own = command.help if name == "app" else (inspect.getdoc(command) or "").split("\n\n")[0].replace("\n", " ")
        assert own == summary


def options_of(command: list[str]) -> set[str]:
    target = app
    for name in command:
        target = target[name]
    arguments = target.assemble_argument_collection(default_parameter=app.default_parameter)
    return {name for argument in arguments if argument.parse for name in argument.names if name.startswith("--")}


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    text = (PROJECT / "docs/dependencies.md").read_text(encoding="utf-8")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in wanted}
    assert {name for name in names if f"`{name}`" not in text} == set()
