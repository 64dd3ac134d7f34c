"""Paths that are kept packed come out as they were, are found, and take next to nothing each."""

from __future__ import annotations

import os
from bisect import bisect_left
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from support.slope import slope

from shipway.trees.entry import Kind, path_key
from shipway.trees.paths import PackedKinds, PackedPaths

NAMES = st.sampled_from(["a", "b", "a-", "aé", os.fsdecode(b"\xff"), "\U0001f600"])
PATHS = st.lists(NAMES, max_size=3).map("/".join)


@given(st.lists(st.lists(PATHS, max_size=6), max_size=4), st.booleans(), PATHS)
def test_paths_come_out_as_they_were_and_are_found(lists: list[list[str]], in_order: bool, wanted: str) -> None:
    paths = [path for one in lists for path in one]
    if in_order:
        paths.sort(key=path_key)
    packed = PackedPaths([paths] if in_order else lists)
    keys = sorted(map(path_key, paths))
    assert list(packed) == packed[:] == paths
    assert list(packed.keys()) == [packed.at(place) for place in range(len(packed))] == keys
    assert [paths[index] for index in packed.order] == sorted(paths, key=path_key)
    assert packed.find(path_key(wanted)) == bisect_left(keys, path_key(wanted))
    assert packed.twice() == [index for index, path in enumerate(paths) if paths.count(path) > 1]


def made(count: int) -> list[str]:
    return [f"directory{number // 100:03}/file{number:06}" for number in range(count)]


def test_many_are_found_too_whatever_their_order() -> None:
    for paths in (made(2048), made(2000), made(2000)[::-1], made(1500) + made(3000)[1500::7] + made(1600)[1500:]):
        packed = PackedPaths([paths[:700], paths[700:]])
        assert list(packed) == paths
        keys = sorted(map(path_key, paths))
        for path in [*made(2200)[::97], "", "e"]:
            assert packed.find(path_key(path)) == bisect_left(keys, path_key(path))


def test_a_path_takes_a_few_bytes() -> None:
    assert slope(lambda count: PackedPaths([made(count)]).find(b"x"), 2000, 40_000) < 200


def test_kinds_come_out_as_they_were() -> None:
    kinds: list[Kind] = list(get_args(Kind))
    packed = PackedKinds(kinds)
    packed.append("dir")
    assert list(packed) == packed[:] == [*kinds, "dir"]
    assert packed.all("dir") == [kinds.index("dir"), len(kinds)]
    assert packed.all("fifo") == [kinds.index("fifo")]
    assert PackedKinds(["reg"]).all("dir") == []
