"""Checkpoints of gzip: the same with whatever library takes them, and each a way in."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator

import pytest

from shipway.errors import Corrupt
from shipway.layers import inflate
from shipway.layers.inflate import CheckpointingGzip, Point, inflate_from

SPACING = 100_000


@pytest.fixture(scope="module")
def plain() -> bytes:
    noise = random.Random(3)
    words = [noise.randbytes(noise.randrange(1, 20)) for _ in range(300)]
    return b"".join(noise.choices(words, k=300_000)) + bytes(500_000) + noise.randbytes(300_000)


@pytest.fixture(params=[1, 6, 9, "stored", "members"])
def blob(request: pytest.FixtureRequest, plain: bytes) -> bytes:
    if request.param == "stored":
        return gzip.compress(plain, 0)
    if request.param == "members":
        parts = [plain[start : start + 70_001] for start in range(0, len(plain), 70_001)]
        return b"".join(gzip.compress(part) for part in parts) + bytes(3000)
    return gzip.compress(plain, request.param)


@pytest.fixture(params=[0, 1], ids=["zlib-ng", "zlib"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    one = inflate.libraries()[request.param]
    monkeypatch.setattr(inflate, "libraries", lambda: (one,))


def cut(blob: bytes, size: int) -> Iterator[bytes]:
    return (blob[start : start + size] for start in range(0, len(blob), size))


def read(blob: bytes, *, piece: int, buffer: int) -> tuple[bytes, list[Point]]:
    source = CheckpointingGzip(cut(blob, piece), SPACING, "the blob")
    view = memoryview(bytearray(buffer))
    plain = bytearray()
    while size := source.readinto(view):
        plain += view[:size]
    return bytes(plain), source.points


@pytest.mark.usefixtures("_library")
def test_each_is_a_way_in(blob: bytes, plain: bytes) -> None:
    found, points = read(blob, piece=1 << 20, buffer=1 << 20)
    assert found == plain
    assert len(points) > 5
    ends = [*(point.plain for point in points[1:]), len(plain)]
    for point, end in zip(points, ends, strict=True):
        size = min(end - point.plain, 50_000)
        assert inflate_from(point, blob[point.offset :], size, "the blob") == plain[point.plain : point.plain + size]


def test_they_are_the_same_with_each_library_and_however_it_is_read(
    blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    both = inflate.libraries()
    assert len(both) == 2
    for library in both:
        monkeypatch.setattr(inflate, "libraries", lambda library=library: (library,))
        for piece, buffer in ((1 << 20, 1 << 20), (4_097, 30_011)):
            found.append(read(blob, piece=piece, buffer=buffer))
    assert all(one == found[0] for one in found)


@pytest.mark.usefixtures("_library")
def test_damage_is_found(plain: bytes) -> None:
    blob = bytearray(gzip.compress(plain))
    blob[len(blob) // 2] ^= 0x55
    with pytest.raises(Corrupt, match="the blob: not gzip data"):
        read(bytes(blob), piece=1 << 20, buffer=1 << 20)


def test_without_any_library_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "libraries", lambda: ())
    assert not inflate.available()
