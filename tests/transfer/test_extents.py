"""Where files are in a blob, and which have equal contents, known on a few bytes each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.slope import slope

from shipway.transfer.extents import Extents
from shipway.transfer.repeats import Repeats
from shipway.trees.entry import Chunk, Entry


@st.composite
def files(draw: st.DrawFn) -> Entry:
    """A file of some chunks, which may be holes and lie anywhere, though each after the one before."""
    chunks: list[Chunk] = []
    at = draw(st.integers(0, 9))
    for zeros in draw(st.lists(st.booleans(), min_size=1, max_size=3)):
        length = draw(st.integers(1, 3))
        chunks.append(Chunk(at, length, 0, 1, "", zeros))
        at += length + draw(st.integers(-1, 1))
    return Entry(path="file", kind="reg", size=1, chunks=tuple(chunks))


@given(st.lists(files(), max_size=8), st.booleans())
def test_all_files_are_read_in_movements_forwards(entries: list[Entry], in_order: bool) -> None:
    extents = Extents()
    numbers = range(len(entries)) if in_order else range(len(entries))[::-1]
    for number in numbers:
        extents.add(number, entries[number])
    found: list[int] = []
    for group in extents.passes():
        ranges = list(group.extents())
        assert ranges == sorted(ranges)
        taken = [*group.take(5), *group.take(100)]
        assert [(one.start, one.end) for one in ranges] == [_extent(entries[number]) for number in taken]
        at, last = 0, (0, 0)
        for number in taken:
            places = [
                (chunk.offset, chunk.offset + chunk.length) for chunk in entries[number].chunks if not chunk.zeros
            ]
            if places:
                assert places[0][0] >= at - 1 or places[0] == last
                if places[-1][1] >= at:
                    at, last = places[-1][1], places[-1]
        found += taken
    assert sorted(found) == list(range(len(entries)))


def _extent(entry: Entry) -> tuple[int, int]:
    chunks = [chunk for chunk in entry.chunks if not chunk.zeros]
    return (chunks[0].offset, chunks[-1].offset + chunks[-1].length) if chunks else (0, 0)


@given(st.lists(st.sampled_from("abcde")))
def test_of_equal_contents_the_first_is_known_and_the_others_are_found(contents: list[str]) -> None:
    repeats = Repeats()
    for number, content in enumerate(contents):
        repeats.add(content, 2 * number)
    first = repeats.settle()
    assert [contents[number // 2] for number, is_first in enumerate(first) if is_first] == list(dict.fromkeys(contents))
    for content in "abcdef":
        others = [2 * number for number, one in enumerate(contents) if one == content][1:]
        assert list(repeats.others(content)) == others


def known(count: int) -> object:
    extents, repeats = Extents(), Repeats()
    for number in range(count):
        extents.add(number, Entry(path="", kind="reg", size=1, chunks=(Chunk(number * 10, 10, 0, 1, ""),)))
        repeats.add(str(number), number)
    return extents, repeats.settle(), [group.take(count * 10) for group in extents.passes()]


def test_a_file_takes_a_few_bytes() -> None:
    assert slope(known, 5000, 20_000) < 80
