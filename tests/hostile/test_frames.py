"""Hostile compression and bombs, in a store with small limits: refused, or unpacked the same through every way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hostile import Blob, image
from support.hostile_frames import ENTRIES, FRAMES, SIZE, Wanted
from support.hostile_ways import Registry, World

from shipway import Limits

CASES = [pytest.param(case, id=name) for name, case in FRAMES.items()]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # No driver ever sees what is compressed, so one of them is enough.
    world = World(tmp_path_factory.mktemp("small"), "native", limits=Limits(size=SIZE, entries=ENTRIES))
    yield world
    world.close()


@pytest.mark.parametrize("case", CASES)
def test_a_bomb_or_broken_compression_is_refused(
    small: World, registry: Registry, tmp_path: Path, case: tuple[Wanted, Callable[[], Blob]]
) -> None:
    wanted, make = case
    pulls, extracts = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    layer = make()
    pulled, extracted, pushed = small.every_way(registry, image(layer), tmp_path / "beside")
    pulled.check(pulls, layer.descriptor.digest)
    extracted.check(extracts, layer.descriptor.digest)
    assert (pushed.error is None) == (pulls is None)
    if pulls is None:
        assert pulled.tree == extracted.tree == pushed.tree
