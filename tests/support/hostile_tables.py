"""Hostile tables of contents, one line each: how the pull ends, how the extract ends, and what is done to the table.

The archive is always the same, and right. Who pulls reads it all and compares; who extracts reads just the table and what it
points to. Both show the same tree, or one of them refuses: then nobody sees what the other does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError, SizeMismatch, TooLarge, Truncated, UnsafeEntry
from shipway.layers.chunked import ESTARGZ, MAX_TABLE, PREFIX, TAR_SPLIT_POSITION, skippable
from support.hostile import END, Blob, folder, hardlink, head, padded, symlink, with_raw_table, zstd

# fmt: off
Error = type[ShipwayError] | None
OK: Error = None
Json = dict[str, Any]

ONE, TWO, EVIL, HOLE = b"one" * 1000, b"two" * 1000, b"bad" * 1000, bytes(128 << 10)


@dataclass
class Parts:
    """What a layer is made of: the archive, the frames that inflate to it, and its table as JSON has it."""

    tar: bytes
    frames: list[bytes]
    records: list[Json]

    @property
    def end(self) -> int:
        return sum(map(len, self.frames))

    def record(self, name: str) -> Json:
        return next(record for record in self.records if record["name"] == name)


def parts(compress: Callable[[bytes], bytes] = zstd) -> Parts:
    """Return the layer as it should be."""
    members: list[tuple[Json, bytes, Sequence[bytes]]] = [
        ({"type": "dir", "name": "d/", "mode": 0o755}, folder("d/"), ()),
        ({"type": "reg", "name": "d/one", "mode": 0o644}, head(b"0", "d/one", size=len(ONE)), (ONE,)),
        ({"type": "reg", "name": "two", "mode": 0o644}, head(b"0", "two", size=len(TWO)), (TWO,)),
        ({"type": "reg", "name": "big", "mode": 0o644}, head(b"0", "big", size=len(ONE + HOLE + TWO)), (ONE, HOLE, TWO)),
        ({"type": "symlink", "name": "s", "linkName": "two", "mode": 0o644}, symlink("s", "two"), ()),
        ({"type": "hardlink", "name": "h", "linkName": "two", "mode": 0o644}, hardlink("h", "two"), ()),
    ]
    made = Parts(b"", [], [])
    for record, header, chunks in members:
        made.tar += header
        made.frames.append(compress(header))
        content = b"".join(chunks)
        places: list[Json] = []
        for chunk in chunks:
            places.append({"offset": made.end, "chunkOffset": sum(one["chunkSize"] for one in places), "chunkSize": len(chunk)})
            places[-1] |= {"chunkType": "zeros"} if chunk == HOLE else {"chunkDigest": oci.sha256(chunk)}
            made.frames.append(compress(chunk))
        if content:
            record |= {"size": len(content), "digest": oci.sha256(content), "endOffset": made.end, **places[0]}
            padding = padded(content)[len(content):]
            made.tar += content + padding
            made.frames.append(compress(padding))
        made.records.append(record)
        made.records += [{"type": "chunk", "name": record["name"], **place} for place in places[1:]]
    made.tar += END
    made.frames.append(compress(END))
    return made


Change = Callable[[Parts], object]
TableCase = tuple[Error, Error, Change]


def says(name: str, /, **changes: Any) -> Change:
    """The table says something else about an entry."""
    return lambda parts: parts.record(name).update(changes)


def adds(*records: Json) -> Change:
    """The table has more entries, at its end."""
    return lambda parts: parts.records.extend(records)


def lacks(name: str) -> Change:
    """The table does not have an entry."""
    return lambda parts: parts.records.remove(parts.record(name))


def chunk(number: int, **changes: Any) -> Change:
    """The table says something else about a chunk of the file of three: 0 is the first."""
    return lambda parts: parts.records[parts.records.index(parts.record("big")) + number].update(changes)


def takes(name: str, other: str) -> Change:
    """The table says that a file has another one's content."""
    return lambda parts: parts.record(name).update({key: parts.record(other)[key] for key in ("offset", "endOffset", "digest", "chunkDigest")})


def hidden(parts: Parts) -> None:
    """A file's content comes out of a frame that decompressors pass over, so that it is in no archive."""
    frame = zstd(EVIL)
    offset = parts.end + 8
    parts.frames.append(skippable(len(frame)) + frame)
    parts.record("two").update(offset=offset, endOffset=offset + len(frame), digest=oci.sha256(EVIL), chunkDigest=oci.sha256(EVIL))


def swapped(parts: Parts) -> None:
    first, second = parts.records.index(parts.record("d/one")), parts.records.index(parts.record("two"))
    parts.records[first], parts.records[second] = parts.records[second], parts.records[first]


ENTRIES: dict[str, TableCase] = {
    "as it should be": (OK, OK, lambda _: None),
    "a directory that the archive has not": (Corrupt, OK, adds({"type": "dir", "name": "more", "mode": 0o755})),
    "a setuid link to what is there": (Corrupt, OK, adds({"type": "hardlink", "name": "more", "linkName": "two", "mode": 0o4755})),
    "an entry less": (Corrupt, OK, lacks("s")),
    "a file less": (Corrupt, OK, lacks("d/one")),
    "no entries": (Corrupt, OK, lambda parts: parts.records.clear()),
    "another order": (Corrupt, OK, swapped),
    "an entry twice": (Corrupt, Corrupt, lambda parts: parts.records.append(dict(parts.record("two")))),
    "another name": (Corrupt, OK, says("s", name="t")),
    "a name that reaches out": (UnsafeEntry, UnsafeEntry, says("two", name="../two")),
    "a removal for a file": (Corrupt, UnsafeEntry, says("two", name=".wh.two")),
    "another mode": (Corrupt, OK, says("two", mode=0o4755)),
    "another mode of a directory": (Corrupt, OK, says("d/", mode=0o777)),
    "another user": (Corrupt, OK, says("two", uid=1)),
    "another group": (Corrupt, OK, says("two", gid=1)),
    "another time": (Corrupt, OK, says("two", modtime="2001-01-01T00:00:00Z")),
    "an attribute more": (Corrupt, OK, says("two", xattrs={"user.a": "AAAA"})),
    "another target of a symlink": (Corrupt, OK, says("s", linkName="d/one")),
    "another target of a hard link": (Corrupt, OK, says("h", linkName="d/one")),
    "a symlink for a hard link": (Corrupt, OK, says("h", type="symlink")),
    "a hard link for a symlink": (Corrupt, OK, says("s", type="hardlink")),
    "a device for a symlink": (Corrupt, OK, says("s", type="char", devMajor=1, devMinor=3)),
    "a directory for a symlink": (Corrupt, OK, says("s", type="dir")),
    "a type that there is not": (Corrupt, Corrupt, says("s", type="door")),
    "a type that only layers have": (Corrupt, Corrupt, says("s", type="whiteout")),
    "a chunk of no file": (Corrupt, Corrupt, lambda parts: parts.records.insert(0, {"type": "chunk", "name": "d/"})),
    "an owner that chown would leave as it is": (Corrupt, Corrupt, says("two", uid=2**32 - 1)),
    "a device's number out of bounds": (Corrupt, Corrupt, says("s", type="char", devMajor=2**40)),
    "a path of 5,000 directories": (Corrupt, Corrupt, adds({"type": "dir", "name": "d/" * 5000, "mode": 0o755})),
}

CONTENTS: dict[str, TableCase] = {
    "another size": (Corrupt, DigestMismatch, says("two", size=2999, chunkSize=2999)),
    "a size of nothing": (Corrupt, OK, says("two", size=0)),
    "a size of 4 EiB": (TooLarge, TooLarge, says("two", size=2**62, chunkSize=0)),
    "a size of 2 GiB, inflated of nothing": (TooLarge, TooLarge, says("two", size=2**31, chunkSize=0)),
    "a size of 500 MiB, inflated of nothing": (Corrupt, Truncated, says("two", size=500 << 20, chunkSize=0)),
    "another digest": (Corrupt, DigestMismatch, says("two", digest=oci.sha256(EVIL), chunkDigest="")),
    "a digest that is none": (Corrupt, Corrupt, says("two", digest="sha256:two")),
    "a digest of another kind": (Corrupt, Corrupt, says("two", digest="sha512:" + "0" * 128)),
    "no digest": (Corrupt, Corrupt, says("two", digest="")),
    "another file's content": (Corrupt, OK, takes("two", "d/one")),
    "content that the archive has not": (Corrupt, OK, hidden),
    "a chunk's digest that is not its": (OK, DigestMismatch, chunk(0, chunkDigest=oci.sha256(TWO))),
    "a place where no frame begins": (OK, Corrupt, lambda parts: parts.record("two").update(offset=parts.record("two")["offset"] + 1)),
    "a place where another frame begins": (OK, Corrupt, says("two", offset=0)),
    "a place of the end": (OK, Corrupt, lambda parts: parts.record("two").update(offset=parts.end - 9, endOffset=parts.end)),
    "a place beyond the blob": (Corrupt, Corrupt, says("two", offset=2**40, endOffset=2**41)),
    "a place in the table": (Corrupt, Corrupt, lambda parts: parts.record("two").update(offset=parts.end + 8, endOffset=parts.end + 20)),
    "an end before the beginning": (Corrupt, Corrupt, says("two", endOffset=1)),
    "no place": (OK, Corrupt, says("two", offset=0, endOffset=0)),
    "a hole for data, under the digest of the data": (OK, DigestMismatch, chunk(0, chunkType="zeros")),
    "a hole for data, under the digest of the hole": (Corrupt, OK, lambda parts: (chunk(0, chunkType="zeros")(parts), parts.record("big").update(digest=oci.sha256(bytes(3000) + HOLE + TWO)))),
    "data for a hole": (Corrupt, Corrupt, chunk(1, chunkType="")),
    "a hole of 4 EiB": (TooLarge, TooLarge, lambda parts: (chunk(1, chunkSize=2**61)(parts), chunk(2, chunkOffset=2**61 + 3000)(parts), says("big", size=2**61 + 6000)(parts))),
    "chunks that overlap": (Corrupt, Corrupt, chunk(1, chunkOffset=2999)),
    "chunks with a gap": (Corrupt, Corrupt, chunk(1, chunkOffset=3001)),
    "chunks out of order": (Corrupt, Corrupt, lambda parts: parts.records.insert(5, parts.records.pop(4))),
    "chunks whose places overlap": (OK, Corrupt, lambda parts: chunk(1, offset=parts.records[3]["offset"] + 1)(parts)),
    "a chunk of nothing": (Corrupt, Corrupt, chunk(1, chunkSize=0, chunkOffset=0)),
    "a chunk less": (Corrupt, Corrupt, lambda parts: parts.records.pop(4)),
    "content of a directory": (Corrupt, Corrupt, says("d/", size=3000, offset=1, endOffset=9, digest=oci.sha256(ONE))),
}

NUMBERS: dict[str, TableCase] = {
    f"{value!r} for {key}": (Corrupt, Corrupt, says("two", **{key: value}))
    for key in ("size", "mode", "uid", "offset", "endOffset", "chunkSize", "chunkOffset", "devMajor")
    for value in (-1, 2**63, 2**64, 1.5, "1")
}

TEXTS: dict[str, TableCase] = {
    "a time that is none": (Corrupt, Corrupt, says("two", modtime="yesterday")),
    "a time of the 13th month": (Corrupt, Corrupt, says("two", modtime="2001-13-01T00:00:00Z")),
    "an attribute that is not base64": (Corrupt, Corrupt, says("two", xattrs={"user.a": "!"})),
    "a raw name that is not base64": (Corrupt, Corrupt, says("two", nameRaw="!")),
    "a raw name besides another": (Corrupt, OK, says("s", nameRaw="ZXZpbA==")),
    "a name with a NUL": (UnsafeEntry, UnsafeEntry, says("two", name="two\0")),
    "a name of a lone surrogate": (Corrupt, Corrupt, says("two", name="SURROGATE")),
    "a link of nothing": (Corrupt, Corrupt, says("s", linkName="")),
    "a link that reaches out": (UnsafeEntry, UnsafeEntry, says("h", linkName="../two")),
}

PLACES: dict[str, tuple[Error, Error, Json]] = {
    "another checksum": (DigestMismatch, DigestMismatch, {"checksum": oci.sha256(b"")}),
    "a checksum that is none": (Corrupt, Corrupt, {"checksum": "md5:0"}),
    "a position that is none": (Corrupt, Corrupt, {"position": "here"}),
    "a position below zero": (Corrupt, Corrupt, {"position": "-1:{length}:{plain}:1"}),
    "a position beyond the blob": (Corrupt, Corrupt, {"position": "{size}:{length}:{plain}:1"}),
    "a position of 2^64": (Corrupt, Corrupt, {"position": "18446744073709551616:{length}:{plain}:1"}),
    "a position one byte early": (Corrupt, Corrupt, {"position": "0:{length}:{plain}:1"}),
    "no length": (Corrupt, Corrupt, {"position": "{offset}:0:{plain}:1"}),
    "a length more than there is": (Corrupt, Corrupt, {"position": "{offset}:{size}:{plain}:1"}),
    "a size inflated of nothing": (Corrupt, Corrupt, {"position": "{offset}:{length}:0:1"}),
    "a size inflated of more": (Corrupt, Corrupt, {"position": "{offset}:{length}:1" + "{plain}:1"}),
    "a size inflated of more than any table": (Corrupt, Corrupt, {"position": f"{{offset}}:{{length}}:{MAX_TABLE + 1}:1"}),
    "a table of another type": (Corrupt, Corrupt, {"position": "{offset}:{length}:{plain}:2"}),
    "a table that is not compressed": (Corrupt, Corrupt, {"packed": b"[]"}),
    "a table that is a bomb": (SizeMismatch, SizeMismatch, {"packed": zstd(bytes(1 << 20)) * 2000}),
    "a table of another window": (Corrupt, Corrupt, {"packed": b"\x28\xb5\x2f\xfd\x00\xf8\x09\x00\x00x"}),
    "tables of two kinds": (Corrupt, Corrupt, {"more": {ESTARGZ: oci.sha256(b"")}}),
    "a tar-split that is nowhere": (OK, OK, {"more": {PREFIX + TAR_SPLIT_POSITION: "9:9:9"}}),
    "a tar-split of another layer": (OK, OK, {"more": {PREFIX + TAR_SPLIT_POSITION: "{offset}:8:1"}}),
}

JSON: dict[str, tuple[Error, Error, bytes]] = {
    "not JSON": (Corrupt, Corrupt, b"table"),
    "nothing": (Corrupt, Corrupt, b""),
    "cut short": (Corrupt, Corrupt, b'{"version":1,"entries":[{"type":'),
    "something after it": (Corrupt, Corrupt, b'{"version":1,"entries":[]}{}'),
    "a list": (Corrupt, Corrupt, b"[]"),
    "another version": (Corrupt, Corrupt, b'{"version":2,"entries":[]}'),
    "no version": (Corrupt, Corrupt, b'{"entries":[]}'),
    "no entries": (Corrupt, Corrupt, b'{"version":1}'),
    "entries of no type": (Corrupt, Corrupt, b'{"version":1,"entries":[{}]}'),
    "nested too deep": (Corrupt, Corrupt, b'{"version":1,"entries":' + b"[" * 100_000),
    "an unknown key nested too deep": (Corrupt, Corrupt, b'{"version":1,"more":' + b"[" * 100_000 + b"]" * 100_000 + b',"entries":[]}'),
    "a number of a megabyte": (Corrupt, Corrupt, b'{"version":' + b"9" * (1 << 20) + b',"entries":[]}'),
    "not UTF-8": (Corrupt, Corrupt, b'{"version":1,"entries":[{"type":"dir","name":"\xff"}]}'),
    "keys twice": (Corrupt, OK, b'{"version":2,"version":1,"entries":[]}'),
}


def changed(case: TableCase) -> Blob:
    """Return the layer with a changed table."""
    made = parts()
    case[2](made)
    table = msgspec.json.encode({"version": 1, "entries": made.records}).replace(b"SURROGATE", rb"\ud800")
    return with_raw_table(made.tar, table, made.frames)


def placed(case: tuple[Error, Error, Json]) -> Blob:
    """Return the layer with its right table, said to be somewhere or something else."""
    made = parts()
    return with_raw_table(made.tar, msgspec.json.encode({"version": 1, "entries": made.records}), made.frames, **case[2])


def written(case: tuple[Error, Error, bytes]) -> Blob:
    """Return the layer with any bytes for a table."""
    made = parts()
    return with_raw_table(made.tar, case[2], made.frames)


TABLES: dict[str, tuple[Error, Error, Callable[[], Blob]]] = {
    **{f"{group}: {name}": (*case[:2], lambda case=case: changed(case)) for group, cases in (("entry", ENTRIES), ("content", CONTENTS), ("number", NUMBERS), ("text", TEXTS)) for name, case in cases.items()},  # type: ignore[misc]  # mypy does not know what a default of a lambda is
    **{f"place: {name}": (*case[:2], lambda case=case: placed(case)) for name, case in PLACES.items()},  # type: ignore[misc]  # same
    **{f"JSON: {name}": (*case[:2], lambda case=case: written(case)) for name, case in JSON.items()},  # type: ignore[misc]  # same
}
"""How the pull ends, how the extract ends, and what makes the layer."""
