"""The format version of a store: older ones are brought up to date, newer ones are left alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.caches import write

from shipway import Cache, Corrupt
from shipway.local.database import SCHEMA_VERSION

NEWER_TABLES = ("answers", "contents", "kept", "reports", "places", "absences", "uploads")
"""What the first format had not."""


def database(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(root / "shipway.db")


def test_a_store_of_an_older_format_is_brought_up_to_date_and_loses_nothing(tmp_path: Path) -> None:
    with Cache.open(tmp_path, driver="native") as cache, cache.new() as work:
        write(work, file="kept")
        cache.put("key", work.commit())
    with database(tmp_path) as db:
        for table in NEWER_TABLES:
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with Cache.open(tmp_path) as cache:
        ref = cache.lookup("key")
        assert ref is not None
        with ref:
            assert ref.stat("/file").size == len("kept")
            assert ref.checksum("/file") == ref.checksum("/file")
        assert cache.verify() == []
    assert database(tmp_path).execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_store_of_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Cache.open(tmp_path, driver="native").close()
    with database(tmp_path) as db:
        db.execute("PRAGMA user_version = 1000")
    db.close()
    with pytest.raises(Corrupt, match=r"format 1000.*upgrade"):
        Cache.open(tmp_path)
    assert database(tmp_path).execute("PRAGMA user_version").fetchone() == (1000,)
