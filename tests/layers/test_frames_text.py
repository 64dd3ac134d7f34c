"""Text in zstd frames is read from any place on."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shipway.layers.frames_text import FramesText

TEXT = b"".join(b"%d," % number for number in range(500_000))


def frame(text: bytes, *, checksum: bool = False, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size).compress(text)


@given(st.lists(st.binary(max_size=9), max_size=5), st.booleans(), st.data())
def test_frames_as_they_are_are_read_from_any_place(pieces: list[bytes], checksum: bool, data: st.DataObject) -> None:
    text = b"".join(pieces)
    found = FramesText.of(b"".join(frame(piece, checksum=checksum) for piece in pieces))
    assert found is not None
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert found.read(start, end) == text[start:end]


def test_frames_with_several_blocks_and_runs_are_read_from_any_place() -> None:
    pieces = [TEXT[:300_000], bytes(1_000_000), TEXT[300_000:1_500_000]]
    found = FramesText.of(b"".join(map(frame, pieces)))
    assert found is not None
    text = b"".join(pieces)
    for start, end in ((0, 10), (299_990, 300_010), (1_299_999, 1_400_000), (250_000, 1_500_000)):
        assert found.read(start, end) == text[start:end]


@pytest.mark.parametrize(
    "frames",
    [
        frame(TEXT),
        frame(b"text", size=False),
        b"\x50\x2a\x4d\x18\4\0\0\0text" + frame(b"text"),
        frame(b"text")[:-1],
        frame(b"text") + b"text",
        frame(b"text")[:5],
    ],
    ids=["large", "size not said", "skippable", "cut", "no frame", "header cut"],
)
def test_other_frames_are_not_taken_as_they_are(frames: bytes) -> None:
    assert FramesText.of(frames) is None


def test_any_text_can_be_compressed_for_this() -> None:
    found = FramesText.made([TEXT[:1_000], memoryview(TEXT)[1_000:]])
    for start in range(0, len(TEXT), 123_457):
        assert found.read(start, start + 1000) == TEXT[start : start + 1000]
