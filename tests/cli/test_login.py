"""login stores what the registry accepts, and nothing else; logout removes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.registry import PASSWORD, USER, password_registry
from support.trees import free_port

__all__ = ["password_registry"]


def log_in(host: str, password: str, auth: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shipway", "login", host, "--username", USER, "--password-stdin"]
    return subprocess.run(
        command,
        input=password + "\n",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REGISTRY_AUTH_FILE": str(auth)},
    )


def test_a_password_that_is_accepted_is_remembered_and_used(
    password_registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = tmp_path / "auth.json"
    done = log_in(password_registry, PASSWORD, auth)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert auth.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
    command = [sys.executable, "-m", "shipway", "--root", str(tmp_path / "store"), "show"]
    shown = subprocess.run(
        [*command, f"oci://{password_registry}/nothing"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 3  # let in, and not there
    out = [sys.executable, "-m", "shipway", "logout", password_registry]
    assert [subprocess.run(out, check=False, capture_output=True).returncode for _ in range(2)] == [0, 3]
    assert PASSWORD not in auth.read_text()


def test_an_empty_password_is_said(tmp_path: Path) -> None:
    done = log_in(f"127.0.0.1:{free_port()}", "", tmp_path / "auth.json")
    assert (done.returncode, done.stderr.count("the password is empty")) == (2, 1)


def test_a_password_that_is_refused_is_not_stored(password_registry: str, tmp_path: Path) -> None:
    done = log_in(password_registry, "wr0ng", tmp_path / "auth.json")
    assert done.returncode == 6
    assert "wr0ng" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "auth.json").exists()


def test_a_registry_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    done = log_in(f"127.0.0.1:{free_port()}", "any", tmp_path / "auth.json")
    assert done.returncode == 7
    assert done.stderr.count("\n") == 1
