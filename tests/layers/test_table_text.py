"""The text of a table of contents is read a part at a time, and says the same as all at once."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import msgspec
import pytest

from shipway.errors import Corrupt
from shipway.layers.chunked import Record
from shipway.layers.table_text import BATCH, batches

NAMES = ["},{", '"},{"', "]", "],", '"entries":[', "}]}", '{"version":2,"entries":[', "\\", '\\"', "\n", "ü", "[{"]
Json = dict[str, Any]


class Whole(msgspec.Struct):
    """A table that is decoded at once."""

    version: int
    entries: list[Record]


def entries(number: int) -> list[Json]:
    """Return records, in every way that there is one, under names that look like JSON."""
    return [
        {"type": "reg", "name": f"{NAMES[one % len(NAMES)]}{one}", "size": one}
        | ({"xattrs": {"user.},{": "QQ=="}} if one % 3 else {})
        | ({"unknown": [{"a": [1, {}]}, {"entries": [{}]}]} if one % 5 else {})
        for one in range(number)
    ]


def read(text: bytes, piece: int = 1 << 20) -> list[Json]:
    pieces = (text[at : at + piece] for at in range(0, len(text), piece))
    return msgspec.to_builtins(list(chain.from_iterable(batch.records for batch in batches(pieces, "x"))))  # type: ignore[no-any-return]


def at_once(text: bytes) -> list[Json]:
    return msgspec.to_builtins(msgspec.json.decode(text, type=Whole).entries)  # type: ignore[no-any-return]


def table(number: int, **more: Any) -> Json:
    return {"version": 1, "entries": entries(number), **more}


@pytest.mark.parametrize("piece", [7, 1000, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 8])
@pytest.mark.parametrize("number", [0, 1, 2, 5000])
def test_a_table_is_read_in_parts_as_it_is_at_once(number: int, indent: int | None, piece: int) -> None:
    text = json.dumps(table(number, tarSplitDigest="x"), indent=indent).encode()
    assert len(text) > 2 * BATCH or number <= 2
    assert read(text, piece) == at_once(text)


@pytest.mark.parametrize("separators", [(",", ":"), (" ,\t", "\n: ")])
def test_other_fields_may_stand_anywhere(separators: tuple[str, str]) -> None:
    whole: Json = {"a": '"entries":[', "entries": entries(3000), "b": ["]", []], "tarSplitDigest": "]}", "version": 1}
    text = json.dumps(whole, separators=separators).encode()
    assert read(text) == at_once(text)


def test_a_record_larger_than_a_part_is_read() -> None:
    whole = table(10)
    whole["entries"][3]["xattrs"] = {f"user.{number}": "},{" * 1000 for number in range(300)}
    text = json.dumps(whole).encode()
    assert len(text) > 3 * BATCH
    assert read(text) == at_once(text)


MANY = json.dumps(table(3000)).encode()
MIDDLE = MANY.index(b'"size": 1500')


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version":1}',
        b'{"version":1,"entries":null}',
        b'{"entries":[]}',
        b'{"version":2,"entries":[]}',
        b'{"entries":[],"version":2}',
        b'{"version":1,"entries":[],"version":1}',
        b'{"version":1,"entries":[],"entries":[]}',
        b'{"version":1,"entries":[]"tarSplitDigest":""}',
        b'{"version":1,"entries":[]',
        b'{"version":1,"entries":[]}}',
        b'{"version":1,"entries":[{}]}',
        b'{"version":1,"entries":[1]}',
        b'{"version":1,"entries":[{"type":"reg","name":"a"},]}',
        b'{"version":1,"entries":[{"type":"reg","name":"a"}',
        b'{"x":{"version":1,"entries":[]}}',
        MANY[:-1],
        MANY + b"x",
        MANY.replace(b'"entries"', b'"entry"', 1),
        MANY[:-2] + b'],"entries":[' + MANY[-2:],
        MANY[:MIDDLE] + b"\xff" + MANY[MIDDLE:],
        MANY[:MIDDLE] + b"," + MANY[MIDDLE:],
        MANY[:MIDDLE] + b'"size":-1,' + MANY[MIDDLE:],
        b"[" * 100_000,
        b'{"version":1,"entries":[' + b"[" * 100_000,
    ],
)
def test_what_is_no_table_is_corrupt(text: bytes) -> None:
    with pytest.raises(Corrupt):
        read(text)
