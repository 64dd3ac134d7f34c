"""Where large files are cut."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
from support.contents import random_bytes

from shipway.layers.split import WHOLE, Splitter

SIZE = 24 << 20


def chunks(path: Path, content: bytes) -> list[tuple[int, str]]:
    """Return size and digest of each chunk that a file with this content is cut into."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        splitter = Splitter(fd, len(content), str(path))
        buffer = bytearray(8 << 20)
        found = []
        while not splitter.done:
            for part in splitter.fill(buffer):
                assert not part.is_hole
                found.append((part.size, hashlib.sha256(buffer[part.start : part.start + part.size]).hexdigest()))
        return found
    finally:
        os.close(fd)


def text(size: int) -> bytes:
    """Return text that compresses to about half, without repetitions in it that are cut alike."""
    chance = random.Random(7)
    return chance.randbytes(size // 2).hex().encode()


@pytest.mark.parametrize("content", [random_bytes(SIZE), text(SIZE)], ids=["noise", "text"])
def test_chunks_are_all_of_a_file_and_bounded(tmp_path: Path, content: bytes) -> None:
    found = chunks(tmp_path / "file", content)
    assert sum(size for size, _ in found) == len(content)
    assert max(size for size, _ in found) <= WHOLE
    at = 0
    for size, digest in found:
        assert hashlib.sha256(content[at : at + size]).hexdigest() == digest
        at += size


def test_what_does_not_compress_is_cut_finer(tmp_path: Path) -> None:
    assert 40 << 10 < SIZE / len(chunks(tmp_path / "file", random_bytes(SIZE))) < 100 << 10
    assert 400 << 10 < SIZE / len(chunks(tmp_path / "file", text(SIZE))) < 900 << 10


def test_a_change_and_a_shift_cost_little_more_than_themselves(tmp_path: Path) -> None:
    content = bytearray(random_bytes(SIZE))
    before = {digest for _, digest in chunks(tmp_path / "file", bytes(content))}
    chance = random.Random(3)
    at = 3 << 20
    for kept in (100_000, 0, 200_000):  # overwritten, inserted, replaced by less
        content[at : at + kept] = chance.randbytes(100_000)
        at += SIZE // 4
    moved = sum(size for size, digest in chunks(tmp_path / "file", bytes(content)) if digest not in before)
    assert 300_000 <= moved < 1_200_000
