"""Entries that are kept packed are those that were packed, and take next to nothing each."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from support.slope import slope

from shipway.trees.entry import Chunk, Entry
from shipway.trees.packed import PackedEntries

TEXT = st.text(st.sampled_from("aé\udcff\udc80€"), max_size=4)
CHUNKS = st.lists(st.builds(Chunk, *[st.integers(0, 99)] * 4, st.just("sha256:0")), max_size=2).map(tuple)
ENTRIES = st.builds(
    Entry,
    path=TEXT,
    kind=st.sampled_from(["reg", "dir", "symlink", "whiteout"]),
    size=st.integers(0, 1 << 62),
    mtime_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    link=TEXT,
    dev=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    xattrs=st.dictionaries(TEXT, st.binary(max_size=3), max_size=2),
    inode=st.integers(0, 9),
    chunks=CHUNKS,
)


@given(st.lists(ENTRIES, max_size=8))
def test_what_was_packed_comes_out_as_it_was_in_its_order_as_often_as_one_likes(entries: list[Entry]) -> None:
    packed = PackedEntries(entries)
    assert list(packed) == list(packed) == entries
    assert len(packed) == len(entries)
    assert packed.size == sum(entry.size for entry in entries)
    assert all(entry in packed for entry in entries)


def made(count: int) -> Iterator[Entry]:
    return (Entry(path=f"directory{n // 100}/file{n}", kind="reg", size=n, mtime_ns=n << 30) for n in range(count))


def test_many_are_in_order_too() -> None:
    assert list(PackedEntries(made(2000))) == list(made(2000))


def test_an_entry_takes_a_few_bytes() -> None:
    assert slope(lambda count: sum(entry.size for entry in PackedEntries(made(count))), 2000, 10_000) < 40
