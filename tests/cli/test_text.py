"""What people read."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway.cli import text
from shipway.refs import FileStat


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_500_000, "1.4 MiB"),
        (3 << 40, "3.0 TiB"),
        (9 << 60, "9216.0 PiB"),
    ],
)
def test_sizes_are_readable(count: int, shown: str) -> None:
    assert text.size(count) == shown


@given(st.text())
def test_visible_text_is_one_printable_line(raw: str) -> None:
    shown = text.visible(raw)
    assert shown.isprintable()
    assert "\n" not in shown


@given(st.binary())
def test_any_file_name_can_be_shown_and_encoded(raw: bytes) -> None:
    text.visible(os.fsdecode(raw)).encode()


def test_times_are_utc() -> None:
    moment = datetime(2024, 5, 6, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert text.when(moment) == "2024-05-05 23:02:03"
    assert text.iso(moment) == "2024-05-05T23:02:03Z"
    assert text.when(None) == "-"
    assert text.iso(None) is None
    assert text.iso(datetime(2024, 1, 1, tzinfo=UTC)) == "2024-01-01T00:00:00Z"


def test_columns_line_up() -> None:
    lines = list(text.table([("a", "1 B", "x"), ("bbb", "10 B", "")], ("id", "size", "what"), right=["size"]))
    assert lines == ["a     1 B  x", "bbb  10 B"]


def test_a_long_line_reads_like_ls() -> None:
    device = FileStat("/null", "char", 0o666, uid=0, gid=0, size=0, mtime_ns=0, dev=(1, 3))
    assert text.long_line(device) == "crw-rw-rw-     0     0        1,3 1970-01-01 00:00:00 /null"
    sticky = FileStat("/tmp", "dir", 0o1777, uid=5, gid=70_000, size=0, mtime_ns=0)
    assert text.long_line(sticky) == "drwxrwxrwt     5 70000          0 1970-01-01 00:00:00 /tmp"
