"""Asking for the usage of one ref: it says what the whole list says, and costs no more for all the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipway import Cache, CachePolicy
from shipway.local.database import Connection, Database


def make(cache: Cache, description: str) -> str:
    with cache.new(policy=CachePolicy.RETAIN, description=description) as work:
        with work.mounted() as path:
            (path / "same").write_bytes(b"same")
            os.utime(path / "same", (1, 1))
            os.utime(path, (1, 1))
        with work.commit() as done:
            done.finalize()
            return done.id


def test_what_is_said_of_one_is_what_the_whole_list_says(cache: Cache, tmp_path: Path) -> None:
    first, second = make(cache, "first"), make(cache, "second, the same")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(bytes(100_000))
    with cache.get(second) as one, cache.import_tree(tmp_path / "tree", description="other") as other:
        with cache.new(one, description="half") as work:
            with work.mounted() as path:
                (path / "new").write_bytes(b"new")
            half = work.commit()
        merged = cache.merge([one, other])
        assert merged is not None
        with half, merged:
            for ref in (one, cache.get(first), half, other):
                ref.push(f"oci-layout://{tmp_path / 'layout'}:x")
            rows = list(cache.disk_usage())
            assert len(rows) == 5
            assert [row.shared for row in rows].count(True) == 2
            for row in rows:
                assert list(cache.disk_usage([f"id=={row.id}"])) == [row]
                assert list(cache.disk_usage([f'id=="{row.id}",inuse'])) == ([row] if row.in_use else [])
            assert list(cache.disk_usage([f"id=={rows[0].id}", f"id=={rows[3].id}"])) == [rows[0], rows[3]]
            assert list(cache.disk_usage([f"id=={rows[0].id}", "mutable", "immutable"])) == rows
    assert list(cache.disk_usage(["id==nothing"])) == []


@pytest.mark.parametrize("number", [3, 60])
def test_the_others_cost_nothing(cache: Cache, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [make(cache, str(one)) for one in range(number)]
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def counted(database: Database, *, in_memory: bool = False) -> Connection:
        connection = aside(database, in_memory=in_memory)
        connection._connection.set_progress_handler(count, 1)
        return connection

    aside = Database.aside
    monkeypatch.setattr(Database, "aside", counted)
    cache.store.database._connection.set_progress_handler(count, 1)
    assert [row.id for row in cache.disk_usage([f"id=={refs[1]}"])] == [refs[1]]
    assert [row.id for row in cache.prune(ids=[refs[1]])] == [refs[1]]
    cache.store.database._connection.set_progress_handler(None, 1)
    assert 1000 < steps < 6000
