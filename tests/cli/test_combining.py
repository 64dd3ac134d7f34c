"""merge and diff on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.program import Program

from shipway import Cache
from shipway.server import serving
from shipway.server.store_backend import StoreBackend


def commit(shipway: Program, directory: Path, **files: str) -> str:
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
        os.utime(directory / name, (0, 0))  # a time is a difference too
    return shipway("commit", directory).strip()


def names(shipway: Program, ref: str) -> list[str]:
    return shipway("files", ref).split()


def test_later_refs_lie_over_earlier_ones(shipway: Program, tmp_path: Path) -> None:
    one = commit(shipway, tmp_path / "one", a="1", b="1")
    two = commit(shipway, tmp_path / "two", b="2", c="2")
    made = shipway.json("merge", one, two, "--key", "both")
    assert made == {"id": made["id"], "parents": [one, two], "key": "both", "pushed": None}
    assert names(shipway, "key:both") == ["/", "/a", "/b", "/c"]
    assert shipway("cat", "key:both", "/b") == "2"


def test_a_difference_laid_over_the_lower_ref_is_the_upper_one(shipway: Program, tmp_path: Path) -> None:
    lower = commit(shipway, tmp_path / "lower", gone="1", kept="1")
    upper = commit(shipway, tmp_path / "upper", kept="1", new="2")
    made = shipway("diff", lower, upper).strip()
    assert names(shipway, made) == ["/", "/new"]
    assert names(shipway, shipway("merge", lower, made).strip()) == ["/", "/kept", "/new"]


def test_remote_refs_merge_where_they_are(shipway: Program, tmp_path: Path) -> None:
    with Cache.open(tmp_path / "served") as cache, serving(StoreBackend(cache)) as url:
        at = "oci://" + url.removeprefix("http://")
        for name in ("one", "two"):
            shipway("push", commit(shipway, tmp_path / name, **{name: name}), f"{at}/images:{name}")
        inputs = (f"{at}/images:one", f"{at}/images:two")
        made = shipway.json("merge", *inputs, "--push", f"{at}/images:both")
        assert made["id"] is None
        assert made["pushed"]["layers_moved"] == 0
        assert names(shipway, f"{at}/images:both") == ["/", "/one", "/two"]
        assert names(shipway, shipway("merge", *inputs).strip()) == ["/", "/one", "/two"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["merge"], 2, "name at least one"),
        (["merge", "nothing-here"], 3, "no such ref"),
        (["diff", "nothing-here", "nor-here"], 3, "no such ref"),
    ],
)
def test_what_cannot_be_combined_is_said(shipway: Program, arguments: list[str], code: int, said: str) -> None:
    assert said in shipway.error(*arguments, code=code)


def test_a_key_is_for_what_is_kept(shipway: Program, tmp_path: Path) -> None:
    one = commit(shipway, tmp_path / "one", a="1")
    assert "--key or --push" in shipway.error("merge", one, "--key", "k", "--push", "oci://127.0.0.1:1/x", code=2)
