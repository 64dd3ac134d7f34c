"""Hostile tables of contents: pulling and extracting show the same tree, or at least one of them refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.hostile import Blob, image
from support.hostile_stargz import STARGZ
from support.hostile_tables import TABLES, Error
from support.hostile_ways import Registry, World

# What a table says is decided on before a driver hears of it, so one of them is enough.
DRIVER = pytest.mark.parametrize("world", ["native"], indirect=True)
CASES = [pytest.param(case, id=name) for name, case in (TABLES | STARGZ).items()]


@DRIVER
@pytest.mark.parametrize("case", CASES)
def test_a_table_of_contents_shows_what_the_archive_holds_or_is_refused(
    world: World, registry: Registry, tmp_path: Path, case: tuple[Error, Error, Callable[[], Blob]]
) -> None:
    pulls, extracts, make = case
    layer = make()
    pulled, extracted, pushed = world.every_way(registry, image(layer), tmp_path / "beside")
    pulled.check(pulls, layer.descriptor.digest)
    extracted.check(extracts, layer.descriptor.digest)
    assert (pushed.error is None) == (pulls is None)
    if pulls is None:
        assert pushed.tree == pulled.tree
        assert extracted.tree in (None, pulled.tree)
