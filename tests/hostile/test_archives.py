"""Each hostile archive, through every way in: refused with a typed error or unpacked the same; nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.hostile import image, plain
from support.hostile_tars import ARCHIVES, Case, layers_of
from support.hostile_ways import Outcome, Registry, World

from shipway import ShipwayError

CASES = [pytest.param(case, id=f"{group}: {name}") for group, cases in ARCHIVES.items() for name, case in cases.items()]


def check(outcome: Outcome, wanted: type[ShipwayError] | None, named: str) -> None:
    """Check that it ended as it should, and that an error is one line which names the layer or the entry."""
    if wanted is None:
        assert outcome.error is None
        return
    assert isinstance(outcome.error, wanted), outcome
    line = str(outcome.error)
    assert line.isprintable(), line
    assert len(line) < 1500, line
    assert outcome.error.where or named in line, line


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
        check(outcome, wanted, layers[-1].descriptor.digest)
    assert (pushed.error is None) == (wanted is None)
    if wanted is None:
        assert pulled.tree == extracted.tree == pushed.tree
