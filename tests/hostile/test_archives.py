"""Each hostile archive, through every way in: refused with a typed error or unpacked the same; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hostile import hardlink, image, plain, reg
from support.hostile_tars import ARCHIVES, Case, layers_of
from support.hostile_ways import Registry, World

PRIVILEGED = ("device", "capability")
"""What is in the names of cases that need root: without it devices are left out, and no capability is tried."""
CASES = [
    pytest.param(case, id=f"{group}: {name}", marks=[pytest.mark.root] if any(map(name.count, PRIVILEGED)) else [])
    for group, cases in ARCHIVES.items()
    for name, case in cases.items()
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_archive_is_refused_or_unpacked_safely_through_every_way_in(
    world: World, registry: Registry, tmp_path: Path, case: Case
) -> None:
    wanted, members = layers_of(case, str(world.canary))
    layers = [plain(one) for one in members]
    pulled, extracted, pushed = world.every_way(registry, image(*layers), tmp_path / "beside")
    for outcome in (pulled, extracted):
        outcome.check(wanted, layers[-1].descriptor.digest)
    assert (pushed.error is None) == (wanted is None)
    if wanted is None:
        assert pulled.tree == extracted.tree == pushed.tree


@pytest.mark.parametrize("world", ["native"], indirect=True)
def test_a_path_that_comes_twice_is_the_last_one_and_a_link_in_between_keeps_the_first(
    world: World, registry: Registry, tmp_path: Path
) -> None:
    layer = plain(reg("a", b"first") + hardlink("b", "a") + reg("a", b"second") + reg("c"))
    with world.untouched(), world.cache.remote(registry.put(image(layer))) as remote:
        remote.extract(tmp_path / "all")
        remote.extract(tmp_path / "again", "a", "b")
        with remote.pull() as ref:
            ref.extract(tmp_path / "pulled")
    for name in ("all", "again", "pulled"):
        assert (tmp_path / name / "a").read_bytes() == b"second"
        assert (tmp_path / name / "b").read_bytes() == b"first"
