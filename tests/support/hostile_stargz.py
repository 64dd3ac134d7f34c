"""Hostile tables of contents of eStargz, one line each; see `hostile_tables`.

An archive of eStargz has its table inside, here after its end. Its times are not compared, unless the layer says that they
are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, TooLarge, Truncated
from shipway.layers.chunked import ESTARGZ, HEADERS, HEADERS_VERSION
from shipway.layers.headers import TABLE_NAME
from support.hostile import END, Blob, gz, head, padded
from support.hostile_tables import ENTRIES, EVIL, OK, TWO, Change, Error, Parts, TableCase, chunk, parts, says, takes
from support.stargz import FOOTER

# fmt: off


def moved(name: str, key: str, by: int) -> Change:
    """The table says that something of an entry is more, or less."""
    return lambda parts: parts.record(name).update({key: parts.record(name)[key] + by})


CASES: dict[str, TableCase] = {
    **{name: case for name, case in ENTRIES.items() if name != "another time"},
    "another size": (Corrupt, DigestMismatch, says("two", size=2999, chunkSize=2999)),
    "a size of nothing": (Corrupt, OK, says("two", size=0)),
    "a size of 4 EiB": (TooLarge, TooLarge, says("two", size=2**62, chunkSize=0)),
    "a size of 500 MiB, inflated of nothing": (Corrupt, Truncated, says("two", size=500 << 20, chunkSize=0)),
    "another digest": (Corrupt, DigestMismatch, says("two", digest=oci.sha256(EVIL), chunkDigest="")),
    "no digest": (Corrupt, Corrupt, says("two", digest="")),
    "another file's content": (Corrupt, OK, takes("two", "d/one")),
    "a chunk's digest that is not its": (OK, DigestMismatch, chunk(0, chunkDigest=oci.sha256(TWO))),
    "a place where no member begins": (OK, Corrupt, moved("two", "offset", 1)),
    "a place where another member begins": (OK, Corrupt, says("two", offset=0)),
    "a place beyond the blob": (Corrupt, Corrupt, says("two", offset=2**40)),
    "a place in the table": (Corrupt, Corrupt, lambda parts: parts.record("two").update(offset=parts.end)),
    "a place inside of which there is not so much": (OK, Truncated, says("two", innerOffset=4000)),
    "a place inside where something else is": (OK, DigestMismatch, says("two", innerOffset=1)),
    "a place inside after 4 EiB": (OK, Corrupt, says("two", innerOffset=2**62)),
    "chunks that overlap": (Corrupt, Corrupt, chunk(1, chunkOffset=2999)),
    "chunks with a gap": (Corrupt, Corrupt, chunk(1, chunkOffset=3001)),
    "chunks at one place": (OK, DigestMismatch, lambda parts: chunk(2, offset=parts.record("big")["offset"])(parts)),
    "a chunk less": (Corrupt, Corrupt, lambda parts: parts.records.pop(4)),
}


def table_of(made: Parts) -> bytes:
    """Return a table as it is inside the archive."""
    return msgspec.json.encode({"version": 1, "entries": made.records})


def member_of(table: bytes) -> bytes:
    """Return what the archive has for a table, after its end."""
    return head(b"0", TABLE_NAME, size=len(table)) + padded(table) + END


def stargz(
    frames: bytes, tar: bytes, table: bytes, *, offset: int | None = None, footer: bytes = FOOTER, inside: bytes | None = None
) -> Blob:
    """Return a layer under the right digests, whose footer leads to `offset`; another table may be `inside` its archive."""
    tail = member_of(table if inside is None else inside)
    data = frames + gz(tail) + (footer % (len(frames) if offset is None else offset) if footer else b"")
    return Blob(data, oci.LAYER_GZIP, oci.sha256(tar + tail), {ESTARGZ: oci.sha256(table)})


def changed(change: Change, more: dict[str, str] | None = None) -> Blob:
    """Return the layer with a changed table."""
    made = parts(gz)
    change(made)
    blob = stargz(b"".join(made.frames), made.tar, table_of(made))
    return Blob(blob.data, blob.media_type, blob.diff_id, {**blob.annotations, **(more or {})})


def lying() -> tuple[Parts, bytes, bytes]:
    """Return the layer, its table, and another of an entry less."""
    made = parts(gz)
    table = table_of(made)
    made.records.remove(made.record("s"))
    return made, table, table_of(made)


def in_a_gzip_header() -> Blob:
    """The footer leads to a table in a gzip member's header, which is in no archive; inside that is the right one."""
    made, right, _ = lying()
    says("h", offset=made.end)(made)  # so that no content is taken to reach into that header
    wrong = table_of(made)
    extra = gz(member_of(wrong)) + b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # which ends as what it is in
    around = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra + b"\x03\0" + bytes(8)
    return stargz(b"".join(made.frames) + around, made.tar, wrong, offset=made.end + 12, inside=right)


def in_a_file() -> Blob:
    """The footer leads to a table that is the content of a file."""
    made, right, wrong = lying()
    content = member_of(wrong)
    header = head(b"0", "hidden", size=len(content))
    tar = made.tar.removesuffix(END) + header + content + END
    frames = b"".join(made.frames[:-1]) + gz(header)
    return stargz(frames + gz(content) + gz(END), tar, wrong, offset=len(frames), inside=right)


def of_which_one_has_the_digest() -> Blob:
    """The table inside is another than the annotation says, and the footer leads there."""
    made, right, wrong = lying()
    return stargz(b"".join(made.frames), made.tar, wrong, inside=right)


def without_a_footer() -> Blob:
    """Nothing leads to the table: then nobody sees it."""
    made, _, wrong = lying()
    return stargz(b"".join(made.frames), made.tar, wrong, footer=b"")


def with_a_footer_that_leads_out() -> Blob:
    """The footer leads out of the blob."""
    made, right, _ = lying()
    return stargz(b"".join(made.frames), made.tar, right, offset=1 << 60)


TIME = says("two", modtime="2001-01-01T00:00:00Z")
STARGZ: dict[str, tuple[Error, Error, Callable[[], Blob]]] = {
    **{f"eStargz: {name}": (*case[:2], lambda case=case: changed(case[2])) for name, case in CASES.items()},  # type: ignore[misc]  # mypy does not know what a default of a lambda is
    "eStargz: another time of exact ones": (Corrupt, OK, lambda: changed(TIME, {HEADERS: HEADERS_VERSION})),
    "eStargz: a table in a gzip header": (Corrupt, OK, in_a_gzip_header),
    "eStargz: a table in a file": (Corrupt, OK, in_a_file),
    "eStargz: another digest": (DigestMismatch, DigestMismatch, of_which_one_has_the_digest),
    "eStargz: no footer": (OK, Corrupt, without_a_footer),
    "eStargz: a footer that leads out": (Corrupt, Corrupt, with_a_footer_that_leads_out),
}
"""How the pull ends, how the extract ends, and what makes the layer."""
