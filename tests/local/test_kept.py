"""What is kept of remote layers: pieces by digest, found again, trimmed, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipway.local import kept as module
from shipway.local.database import Database
from shipway.local.kept import Kept
from shipway.local.partial import Partial
from shipway.oci import sha256


def pieces(count: int, size: int = 100) -> dict[str, bytes]:
    made = [os.urandom(size) for _ in range(count)]
    return {sha256(data): data for data in made}


def put(kept: Kept, made: dict[str, bytes]) -> None:
    with kept.writing() as pack:
        for digest, data in made.items():
            pack.add(digest, data)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_pieces_are_found_by_their_digests_and_others_are_not(kept: Kept, count: int) -> None:
    made, others = pieces(count), pieces(count)
    put(kept, made)
    found = kept.find([*made, *others])
    assert found.keys() == made.keys()
    assert {digest: kept.read(piece) for digest, piece in found.items()} == made


def test_another_process_finds_them(kept: Kept, tmp_path: Path, database: Database) -> None:
    made = pieces(3)
    put(kept, made)
    assert Kept(tmp_path, database).find(made).keys() == made.keys()


def test_what_was_written_before_a_failure_is_kept(kept: Kept) -> None:
    made = pieces(2)

    def fail() -> None:
        with kept.writing() as pack:
            for digest, data in made.items():
                pack.add(digest, data)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert kept.find(made).keys() == made.keys()


def test_what_is_discarded_leaves_nothing(kept: Kept) -> None:
    made = pieces(2)
    with kept.writing() as pack:
        for digest, data in made.items():
            pack.add(digest, data)
        pack.discard()
    assert kept.find(made) == {}
    assert os.listdir(kept.directory) == []


def test_above_the_limit_what_was_not_used_for_longest_goes(tmp_path: Path, database: Database) -> None:
    (tmp_path / "kept").mkdir()
    kept = Kept(tmp_path, database, limit=250_000)
    first, second, third = pieces(1, 100_000), pieces(1, 100_000), pieces(1, 100_000)
    put(kept, first)
    put(kept, second)
    assert kept.find(first)
    put(kept, third)
    assert kept.find([*first, *second, *third]).keys() == {*first, *third}
    assert len(os.listdir(kept.directory)) == 2


def test_many_small_files_become_one(kept: Kept) -> None:
    made = pieces(100)
    for digest, data in made.items():
        kept.put(digest, data)
    assert len(os.listdir(kept.directory)) < 33
    assert {digest: kept.read(piece) for digest, piece in kept.find(made).items()} == made


def test_a_large_set_is_cut_into_files(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK", 10_000)
    made = pieces(100, 1000)
    put(kept, made)
    assert len(os.listdir(kept.directory)) > 5
    assert {digest: kept.read(piece) for digest, piece in kept.find(made).items()} == made


def test_a_file_that_is_gone_is_as_if_nothing_was_kept(kept: Kept) -> None:
    made = pieces(1)
    put(kept, made)
    for name in os.listdir(kept.directory):
        (kept.directory / name).unlink()
    (piece,) = kept.find(made).values()
    assert kept.read(piece) == b""
    kept.trim()
    assert kept.find(made) == {}


def test_a_full_disk_is_no_error(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "directory", Path("/dev/full/nowhere"))
    with kept.writing() as pack:
        pack.add(sha256(b"x"), b"x")
    assert kept.find([sha256(b"x")]) == {}


def taken(kept: Kept, data: bytes) -> Partial:
    partial = kept.partial(sha256(data))
    assert partial is not None
    return partial


def test_freeing_removes_partials_first_but_none_that_is_in_use(kept: Kept) -> None:
    made = pieces(1, 10_000)
    put(kept, made)
    with taken(kept, b"two") as two:
        two.append(b"2" * 5000)
    with taken(kept, b"one") as one:
        one.append(b"1" * 5000)
        assert kept.partial(sha256(b"one")) is None
        assert kept.free(1) > 0
        assert kept.find(made)
        assert len(list(kept.directory.glob("partial-*"))) == 1
    with taken(kept, b"one") as again:
        assert again.size() == 5000
    assert kept.free() > 10_000
    assert os.listdir(kept.directory) == []


def test_what_was_used_lately_stays_when_told_so(kept: Kept) -> None:
    made = pieces(1, 10_000)
    put(kept, made)
    with taken(kept, b"one") as one:
        one.append(b"1" * 5000)
    assert kept.free(unused_for=3600) == 0
    assert kept.free(unused_for=0) > 10_000
    assert kept.find(made) == {}
