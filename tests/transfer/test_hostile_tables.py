"""Tables of contents written by hand: whatever they say, nothing lands outside, and nothing unchecked."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
import zstandard
from support.images import FileRemote
from support.trees import describe

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, Invalid, ShipwayError, UnsafeEntry
from shipway.layers.chunked import CHECKSUM, POSITION, PREFIX, Record
from shipway.oci import Descriptor
from shipway.transfer.remote_tree import RemoteTree, extract_remote

ONE, TWO = b"one" * 1000, b"two" * 1000


def frame(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(content)


BLOB = b"8 before" + frame(ONE) + frame(TWO)
FIRST = 8
SECOND = FIRST + len(frame(ONE))
END = len(BLOB)


@pytest.fixture
def files(tmp_path: Path) -> FileRemote:
    return FileRemote(tmp_path / "blobs")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A destination with something in it, that must stay as it is."""
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_bytes(b"mine")
    return path


def put_table(files: FileRemote, *records: Record) -> Descriptor:
    """Put a layer of two chunks and a table of contents that is as its annotations say."""
    plain = msgspec.json.encode({"version": 1, "entries": list(records)})
    table = frame(plain)
    data = BLOB + table
    layer = Descriptor(
        media_type=oci.LAYER_ZSTD,
        digest=oci.sha256(data),
        size=len(data),
        annotations={
            PREFIX + CHECKSUM: oci.sha256(table),
            PREFIX + POSITION: f"{END}:{len(table)}:{len(plain)}:1",
        },
    )
    files.put_blob(layer, lambda: io.BytesIO(data))
    return layer


def regular(name: str, *, offset: int = FIRST, end: int = SECOND, content: bytes = ONE, digest: str = "") -> Record:
    return Record(
        type="reg",
        name=name,
        mode=0o644,
        size=len(content),
        digest=digest or oci.sha256(content),
        offset=offset,
        end_offset=end,
    )


def linked(kind: str, name: str, target: str) -> Record:
    return Record(type=kind, name=name, link_name=target)


def refuses(files: FileRemote, layers: list[Descriptor], out: Path, *sources: str) -> ShipwayError:
    """Extract; return the error that has to come, and has to leave everything around `out` as it was."""
    before = describe(out.parent)
    with pytest.raises(ShipwayError) as caught:
        extract_remote(files, layers, out.parent, out, sources)
    assert describe(out.parent) == before
    return caught.value


def test_a_table_made_by_hand_works(files: FileRemote, tmp_path: Path) -> None:
    layer = put_table(files, regular("a/one"), regular("two", offset=SECOND, end=END, content=TWO))
    extract_remote(files, [layer], tmp_path, tmp_path / "new")
    assert (tmp_path / "new/a/one").read_bytes() == ONE
    assert (tmp_path / "new/two").read_bytes() == TWO


@pytest.mark.parametrize(
    "records",
    [
        [regular("../evil")],
        [regular("/evil")],
        [regular("a/../../evil")],
        [regular("a\0b")],
        [regular("")],
        [linked("symlink", "a", ".."), regular("a/evil")],
        [linked("symlink", "a", "/tmp"), Record(type="dir", name="a/evil")],
        [linked("hardlink", "a", "../mine")],
        [regular("a"), regular("a/b")],
    ],
)
def test_a_name_that_leads_out_of_the_tree_is_refused(files: FileRemote, out: Path, records: list[Record]) -> None:
    assert isinstance(refuses(files, [put_table(files, *records)], out), UnsafeEntry)


def test_a_symlink_of_a_lower_layer_is_not_written_through(files: FileRemote, out: Path) -> None:
    lower = put_table(files, linked("symlink", "a", "/tmp"))
    assert isinstance(refuses(files, [lower, put_table(files, regular("a/evil"))], out), UnsafeEntry)


@pytest.mark.parametrize(
    "records",
    [
        [linked("hardlink", "a", "nowhere")],
        [linked("hardlink", "a", "a")],
        [Record(type="dir", name="d"), linked("hardlink", "a", "d")],
        [regular("a"), regular("a")],
        [regular("a", offset=END, end=END + (1 << 40))],
        [regular("a", offset=SECOND, end=FIRST)],
        [regular("a", digest="sha256:short")],
        [Record(type="teapot", name="a")],
        [Record(type="reg", name="a", size=1 << 60, digest=oci.sha256(ONE), offset=FIRST, end_offset=SECOND)],
    ],
)
def test_a_table_that_makes_no_sense_is_corrupt(files: FileRemote, out: Path, records: list[Record]) -> None:
    assert isinstance(refuses(files, [put_table(files, *records)], out), Corrupt)


def test_content_that_is_another_than_promised_is_refused_by_its_own_digest(files: FileRemote, out: Path) -> None:
    layer = put_table(files, regular("good"), regular("bad", digest=oci.sha256(TWO)))
    error = refuses(files, [layer], out, "bad")
    assert isinstance(error, DigestMismatch)
    assert "bad" in str(error)


def test_chunks_that_are_right_one_by_one_must_make_the_right_file(files: FileRemote, out: Path) -> None:
    both = [
        Record(
            type="reg",
            name="both",
            mode=0o644,
            size=len(ONE + TWO),
            digest=oci.sha256(TWO + ONE),
            offset=FIRST,
            end_offset=END,
            chunk_size=len(ONE),
            chunk_digest=oci.sha256(ONE),
        ),
        Record(
            type="chunk",
            name="both",
            offset=SECOND,
            chunk_offset=len(ONE),
            chunk_size=len(TWO),
            chunk_digest=oci.sha256(TWO),
        ),
    ]
    assert isinstance(refuses(files, [put_table(files, *both)], out), DigestMismatch)
    both[0].digest = oci.sha256(ONE + TWO)
    extract_remote(files, [put_table(files, *both)], out.parent, out)
    assert (out / "both").read_bytes() == ONE + TWO


def test_a_chunk_of_another_size_than_promised_is_refused(files: FileRemote, out: Path) -> None:
    layer = put_table(files, Record(type="reg", name="a", size=7, digest=oci.sha256(ONE), offset=8, end_offset=SECOND))
    assert isinstance(refuses(files, [layer], out), DigestMismatch)


def test_files_may_share_bytes_of_the_blob(files: FileRemote, tmp_path: Path) -> None:
    whole = Record(
        type="reg",
        name="whole",
        mode=0o644,
        size=len(ONE + TWO),
        digest=oci.sha256(ONE + TWO),
        offset=FIRST,
        end_offset=END,
        chunk_size=len(ONE),
        chunk_digest=oci.sha256(ONE),
    )
    rest = Record(
        type="chunk",
        name="whole",
        offset=SECOND,
        chunk_offset=len(ONE),
        chunk_size=len(TWO),
        chunk_digest=oci.sha256(TWO),
    )
    layer = put_table(files, whole, rest, regular("one"), regular("two", offset=SECOND, end=END, content=TWO))
    extract_remote(files, [layer], tmp_path, tmp_path / "new")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert contents == {"whole": ONE + TWO, "one": ONE, "two": TWO}


def test_symlinks_that_go_round_in_circles_are_invalid(files: FileRemote, out: Path) -> None:
    layer = put_table(files, linked("symlink", "a", "b"), linked("symlink", "b", "a"))
    assert isinstance(refuses(files, [layer], out, "a/x"), Invalid)


def test_symlinks_of_a_source_lead_nowhere_outside_the_tree(files: FileRemote, out: Path) -> None:
    (out.parent / "secret").write_bytes(b"of the host")
    layer = put_table(files, linked("symlink", "up", "../../../.."), linked("symlink", "host", str(out.parent)))
    tree = RemoteTree(files, [layer])
    assert tree.get("up/secret") is None
    for source in ("up/secret", "host/secret", "../secret"):
        assert "no such file" in str(refuses(files, [layer], out, source))
