"""Each hostile archive, through every way in: refused with a typed error or unpacked the same; nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.hostile import image, plain
from support.hostile_tars import ARCHIVES, Case, layers_of
from support.hostile_ways import Registry, World

CASES = [pytest.param(case, id=f"{group}: {name}") for group, cases in ARCHIVES.items() for name, case in cases.items()]


@pytest.mark.parametrize("case", CASES)
def test_an_archive_is_refused_or_unpacked_safely_through_every_way_in(
    world: World, registry: Registry, tmp_path: Path, case: Case
) -> None:
    wanted, members = layers_of(case, str(world.canary))
    layers = [plain(one) for one in members]
    reference = registry.put(image(*layers))
    with world.untouched():
        pulled = world.pull(reference)
        out = tmp_path / "beside" / "out"
        out.parent.mkdir()
        extracted = world.extract(reference, out)
        shutil.rmtree(out.parent)
        pushed = world.push(image(*layers))
    for outcome in (pulled, extracted):
        outcome.check(wanted, layers[-1].descriptor.digest)
    assert (pushed.error is None) == (wanted is None)
    if wanted is None:
        assert pulled.tree == extracted.tree == pushed.tree
