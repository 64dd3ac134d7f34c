"""What limits bound: bytes, entries, and how much more than its own size a layer is."""

from __future__ import annotations

import pytest

from shipway import Invalid, Limits, TooLarge
from shipway.layers.bounds import FREE, BoundedSource, Bounds
from shipway.layers.compression import Compression, decompressed
from shipway.trees.entry import Entry

MIB = 1 << 20


def read(data: bytes, count: int, bounds: Bounds) -> int:
    """Read `data`, `count` times over, a mebibyte at a time; return the bytes read."""
    source = BoundedSource(decompressed((data for _ in range(count)), Compression.UNCOMPRESSED), bounds)
    buffer = memoryview(bytearray(MIB))
    done = 0
    while size := source.readinto(buffer):
        done += size
    return done


def test_bytes_are_counted_up_to_the_limit() -> None:
    assert read(b"x" * MIB, 3, Bounds(Limits(size=3 * MIB), 1, "here")) == 3 * MIB
    with pytest.raises(TooLarge, match=f"^here: .*more than the {3 * MIB - 1} bytes allowed; raise the limit `size`"):
        read(b"x" * MIB, 3, Bounds(Limits(size=3 * MIB - 1), 1, "here"))


def test_a_layer_may_inflate_to_a_gigabyte_and_then_to_so_many_times_its_size() -> None:
    bounds = Bounds(Limits(ratio=10), 7, "here")
    bounds.count_data(FREE + 70)
    with pytest.raises(TooLarge, match="more than 10 times its size; raise the limit `ratio`"):
        bounds.count_data(1)


def test_zeros_do_not_count_as_inflated() -> None:
    bounds = Bounds(Limits(ratio=1), 0, "here")
    bounds.count_data(FREE - 1)
    assert read(bytes(MIB), 3, bounds) == 3 * MIB
    with pytest.raises(TooLarge, match="its size"):
        read(bytes(MIB - 1) + b"x", 1, bounds)


def test_files_count_with_the_size_they_claim() -> None:
    bounds = Bounds(Limits(size=100), 1, "here")
    bounds.count(Entry(path="a", kind="reg", size=60))
    with pytest.raises(TooLarge, match="claim more than the 100 bytes"):
        bounds.count(Entry(path="b", kind="reg", size=60))


def test_entries_are_counted() -> None:
    bounds = Bounds(Limits(entries=2), 1, "here")
    bounds.count(Entry(path="a", kind="dir"))
    bounds.count(Entry(path="a", kind="dir"))
    with pytest.raises(TooLarge, match="more than the 2 entries allowed; raise the limit `entries`"):
        bounds.count(Entry(path="a", kind="dir"))


@pytest.mark.parametrize("name", ["size", "entries", "ratio"])
def test_a_limit_below_one_is_invalid(name: str) -> None:
    with pytest.raises(Invalid, match=name):
        Limits(**{name: 0})
