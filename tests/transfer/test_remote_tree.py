"""The tree of a remote image: extracts as the local one does, moves little, trusts nothing."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.edits import LAYERS, PATHS
from support.images import FileRemote, PutVersions, put_layer, put_layers
from support.trees import Seen, describe

from shipway.errors import (
    Corrupt,
    DigestMismatch,
    NotFound,
    ShipwayError,
    SizeMismatch,
    Truncated,
    UnknownMediaType,
)
from shipway.layers.compression import Compression
from shipway.layers.toc import toc_location
from shipway.oci import Descriptor
from shipway.progress import Progress
from shipway.references import Reference
from shipway.refs import Extracted
from shipway.remotes import Remote, open_remote
from shipway.transfer.ranges import REQUEST_COST
from shipway.transfer.remote_tree import RemoteTree, extract_remote
from shipway.trees.diff import walk
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Content, Entry, OpenFile, SeekableTree
from shipway.trees.extract import extract
from shipway.trees.looking import described, open_file
from shipway.trees.writer import TreeWriter

CHUNKED, ZSTD, GZIP, TAR = (
    Compression.ZSTD_CHUNKED,
    Compression.ZSTD,
    Compression.GZIP,
    Compression.UNCOMPRESSED,
)
STACKS = [
    pytest.param([CHUNKED, CHUNKED, CHUNKED], id="chunked"),
    pytest.param([GZIP, ZSTD, TAR], id="plain"),
    pytest.param([GZIP, CHUNKED, ZSTD], id="chunked between plain"),
    pytest.param([CHUNKED, GZIP, CHUNKED], id="plain between chunked"),
]


@pytest.fixture
def files(tmp_path: Path) -> FileRemote:
    return FileRemote(tmp_path / "blobs")


@pytest.fixture(params=["files", "registry"])
def remote(request: pytest.FixtureRequest, files: FileRemote) -> Iterator[Remote]:
    """A directory of blobs, and a repository of a real registry."""
    if request.param == "files":
        yield files
        return
    reference: Reference = request.getfixturevalue("reference")
    opened = open_remote(reference)
    yield opened
    opened.close()


def everything(content: Content) -> bytes:
    if isinstance(content, OpenFile):
        return os.pread(content.fd, os.fstat(content.fd).st_size, 0)
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    return b"".join(bytes(piece) for piece in content)


def table_size(layers: list[Descriptor]) -> int:
    locations = [toc_location(layer) for layer in layers]
    return sum(location.length for location in locations if location)


def without_root(path: Path) -> dict[str, Seen]:
    """Describe what was extracted without the destination itself, whose time is its own."""
    return {name: seen for name, seen in describe(path).items() if name}


@dataclass(frozen=True)
class Ask:
    """What to extract."""

    sources: list[str]
    parents: bool = False
    wildcard: bool = False

    def of_local(self, tree: DirectoryTree, out: Path) -> Extracted:
        return extract(tree, out, self.sources, parents=self.parents, wildcard=self.wildcard)

    def of_remote(self, remote: Remote, layers: list[Descriptor], out: Path) -> Extracted:
        return extract_remote(
            remote, layers, out.parent, out, self.sources, parents=self.parents, wildcard=self.wildcard
        )


# The same as local


@pytest.mark.parametrize("stack", STACKS)
def test_a_whole_image_extracts_as_the_local_tree_does(
    remote: Remote, versions: list[Path], put_versions: PutVersions, tmp_path: Path, stack: list[Compression]
) -> None:
    layers = put_versions(remote, stack)
    done = extract_remote(remote, layers, tmp_path, tmp_path / "remote")
    with DirectoryTree(versions[-1]) as tree:
        local = extract(tree, tmp_path / "local")
    assert describe(tmp_path / "remote") == describe(tmp_path / "local") == describe(versions[-1])
    assert (done.entries, done.size, done.skipped) == (local.entries, local.size, local.skipped)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("read-")]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "ask",
    [
        Ask(["bin/tool"]),
        Ask(["/bin", "emptydir"], parents=True),
        Ask(["third", "bin/second"]),
        Ask(["sbin/sh"]),
        Ask(["sbin/sh", "usr/bin/tiny"], parents=True),
        Ask(["sbin/", "sbin/../../sticky"]),
        Ask(["noise", "noise-too", "big", "sparse"]),
        Ask(["private", "fifo", "bin/dangling"]),
        Ask(["deep/**/long-*", "no*", "us?/bin/[a-t]*"], wildcard=True),
        Ask(["bin/absolute", "emptydir/filled"]),
        Ask(["deep/."]),
    ],
    ids=lambda ask: " ".join(ask.sources),
)
def test_sources_extract_as_from_the_local_tree(
    versions: list[Path], put_versions: PutVersions, tmp_path: Path, stack: list[Compression], ask: Ask
) -> None:
    files = FileRemote(tmp_path / "blobs")
    layers = put_versions(files, stack)
    with DirectoryTree(versions[-1]) as tree:
        local = ask.of_local(tree, tmp_path / "local")
    remote = ask.of_remote(files, layers, tmp_path / "remote")
    assert without_root(tmp_path / "remote") == without_root(tmp_path / "local")
    assert (remote.entries, remote.size) == (local.entries, local.size)


@pytest.mark.parametrize("stack", STACKS)
def test_it_lists_and_reads_as_the_local_tree_does(
    files: FileRemote, versions: list[Path], put_versions: PutVersions, stack: list[Compression]
) -> None:
    remote_tree = RemoteTree(files, put_versions(files, stack))
    with DirectoryTree(versions[-1]) as tree:
        for entry in walk(tree):
            seen = remote_tree.get(entry.path)
            assert seen is not None
            assert replace(seen, chunks=(), digest="", inode=0) == replace(entry, inode=0)
            assert remote_tree.names(entry.path) == tree.names(entry.path)
        wanted = [entry for entry in walk(remote_tree) if entry.is_file]
        for entry, content in remote_tree.read(wanted):
            assert everything(content) == (versions[-1] / entry.path).read_bytes()
    assert remote_tree.get("no/such") is None


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    wildcard = draw(st.booleans())
    special = ("/", "./a", "a/", "../b", "a/.", "a/../b") + (("*", "*/*", "**/c", "a/**", "[ab]/?") if wildcard else ())
    return Ask(draw(st.lists(PATHS | st.sampled_from(special), max_size=3)), draw(st.booleans()), wildcard)


def _grow(base: Path, layers: list[list[tuple[Entry, bytes]]]) -> list[Path]:
    """Make a directory of each prefix of `layers`, without what a writer refuses."""
    trees: list[Path] = []
    for number, layer in enumerate(layers):
        path = base / f"tree-{number}"
        path.mkdir()
        if trees:
            with DirectoryTree(trees[-1]) as lower:
                extract(lower, path)
        for entry, content in layer:
            mode = entry.mode | 0o700 if entry.is_dir else entry.mode  # so that the next entry can be written
            with TreeWriter(path) as writer:
                try:
                    writer.add(replace(entry, uid=os.geteuid(), gid=os.getegid(), mode=mode), content)
                    writer.finish()
                except ShipwayError:
                    event("an entry is refused")
        trees.append(path)
    return trees


def _outcome(out: Path, work: Callable[[Path], Extracted]) -> object:
    """Return all there is to know about an extract: what it made, or how it failed and left nothing."""
    try:
        done = work(out)
    except ShipwayError as error:
        assert not out.exists()
        return type(error), str(error)
    return done.entries, done.size, without_root(out)


def _opened(tree: SeekableTree, path: str) -> object:
    """Return what opening a path gives: bytes, or how it failed."""
    try:
        with open_file(tree, path) as file:
            return file.read()
    except ShipwayError as error:
        return type(error), str(error)


@pytest.mark.slow
@settings(max_examples=80)
@given(LAYERS, st.lists(st.sampled_from([CHUNKED, ZSTD, GZIP, TAR]), min_size=4, max_size=4), asks())
def test_local_and_remote_extract_are_one_function(
    layers: list[list[tuple[Entry, bytes]]], stack: list[Compression], ask: Ask
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        trees = _grow(base, layers)
        remote = FileRemote(base / "blobs")
        descriptors = put_layers(remote, trees, stack[: len(trees)])
        with DirectoryTree(trees[-1]) as tree:
            local = _outcome(base / "local", lambda out: ask.of_local(tree, out))
            opened = [_opened(tree, path) for path in ask.sources]
            seen = [described(entry) for entry in walk(tree)]
        assert _outcome(base / "remote", lambda out: ask.of_remote(remote, descriptors, out)) == local
        remote_tree = RemoteTree(remote, descriptors)
        assert [_opened(remote_tree, path) for path in ask.sources] == opened
        assert [described(entry) for entry in walk(remote_tree)] == seen
        event("fails" if isinstance(local, tuple) and isinstance(local[0], type) else "works")


# How much moves


def test_one_small_file_of_a_chunked_image_costs_a_table_a_layer_and_one_range(
    remote: Remote, put_versions: PutVersions, tmp_path: Path
) -> None:
    layers = put_versions(remote, [CHUNKED] * 3)
    before = remote.traffic
    done = extract_remote(remote, layers, tmp_path, tmp_path / "out", ["usr/bin/tiny"])
    assert (tmp_path / "out/tiny").read_bytes() == b"tiny"
    assert done.traffic.received == (remote.traffic - before).received
    assert done.traffic.received <= table_size(layers) + 64
    if isinstance(remote, FileRemote):
        assert done.traffic.requests == len(layers) + 1


def test_tables_of_contents_are_fetched_once_for_all_calls_on_a_tree(
    files: FileRemote, put_versions: PutVersions, tmp_path: Path
) -> None:
    layers = put_versions(files, [CHUNKED] * 3)
    tree = RemoteTree(files, layers)
    assert not files.requests
    assert list(tree.names("sticky")) == ["new"]
    assert len(files.requests) == 3
    tree.extract(tmp_path / "out", ["sticky/new"])
    tree.extract(tmp_path / "out", ["usr/bin/tiny"])
    assert len(files.requests) == 5


def test_files_that_lie_close_are_fetched_together_and_far_ones_apart(files: FileRemote, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    noise = random.Random(2)
    for number in range(64):
        (source / f"file-{number:02}").write_bytes(noise.randbytes(128 << 10))
    layers = [put_layer(files, None, source)]
    tree = RemoteTree(files, layers)
    tree.names("")
    close = tree.extract(tmp_path / "close", ["file-01", "file-03", "file-04"])
    assert close.traffic.requests == 1
    assert close.traffic.received < 6 * (128 << 10)
    far = tree.extract(tmp_path / "far", ["file-01", "file-50"])
    assert far.traffic.requests == 2
    assert far.traffic.received < close.size + REQUEST_COST
    most = tree.extract(tmp_path / "most", [f"file-{number:02}" for number in range(0, 64, 2)])
    assert most.traffic.requests == 1


def test_equal_contents_are_fetched_once(files: FileRemote, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    small, large = random.Random(3).randbytes(1000), random.Random(4).randbytes(5 << 20)
    (source / "padding").write_bytes(random.Random(5).randbytes(40 << 20))
    for name in ("a", "z"):
        (source / f"small-{name}").write_bytes(small)
        (source / f"large-{name}").write_bytes(large)
    layers = [put_layer(files, None, source)]
    tree = RemoteTree(files, layers, tmp_path)
    tree.names("")
    done = tree.extract(tmp_path / "out", ["small-?", "large-?"], wildcard=True)
    assert done.traffic.received < len(small) + len(large) + REQUEST_COST
    for name in ("a", "z"):
        assert (tmp_path / f"out/small-{name}").read_bytes() == small
        assert (tmp_path / f"out/large-{name}").read_bytes() == large


def test_holes_are_not_fetched_and_stay_holes(files: FileRemote, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(64 << 20)
        file.seek(0, 2)
        file.write(b"end")
    with open(source / "only-a-hole", "wb") as file:
        file.truncate(8 << 20)
    layers = [put_layer(files, None, source)]
    done = extract_remote(files, layers, tmp_path, tmp_path / "out")
    for name in ("sparse", "only-a-hole"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
        assert (tmp_path / "out" / name).stat().st_blocks * 512 < 1 << 20
    assert done.size == (64 << 20) + 3 + (8 << 20)


def test_a_plain_layer_is_read_no_further_than_the_file_that_is_wanted(
    remote: Remote, put_versions: PutVersions, tmp_path: Path
) -> None:
    layers = put_versions(remote, [GZIP, GZIP, GZIP])
    base, middle, _ = layers
    assert middle.size > 8 << 20
    done = extract_remote(remote, layers, tmp_path, tmp_path / "out", ["bin/tool"])
    assert (tmp_path / "out/tool").read_bytes() == b"a better tool"
    assert done.traffic.received < 4 << 20
    assert base.size > 8 << 20


def test_a_plain_layer_below_the_file_that_is_wanted_is_not_touched(
    files: FileRemote, put_versions: PutVersions, tmp_path: Path
) -> None:
    layers = put_versions(files, [GZIP, CHUNKED, GZIP])
    extract_remote(files, layers, tmp_path, tmp_path / "out", ["usr/bin/tiny", "sticky/new"])
    assert layers[0].digest not in {digest for digest, _, _ in files.requests}


def test_a_path_through_a_symlink_needs_one_reading_of_a_plain_layer(
    files: FileRemote, put_versions: PutVersions, tmp_path: Path
) -> None:
    layers = put_versions(files, [GZIP])
    extract_remote(files, layers, tmp_path, tmp_path / "out", ["sbin/sh"])
    assert (tmp_path / "out/sh").read_bytes() == b"a shell"
    assert len(files.requests) == 1


def test_a_plain_layer_that_was_read_to_its_end_is_listed_without_reading_it_again(
    files: FileRemote, put_versions: PutVersions, tmp_path: Path
) -> None:
    tree = RemoteTree(files, put_versions(files, [TAR, GZIP, ZSTD]), tmp_path)
    tree.extract(tmp_path / "one", ["deep"])
    count = len(files.requests)
    assert count == 3
    assert tree.names("sticky") == ["new"]
    assert tree.get("no/such") is None
    assert len(files.requests) == count
    done = tree.extract(tmp_path / "two", ["bin/tool"])
    assert done.traffic.requests == 1
    assert (tmp_path / "two/tool").read_bytes() == b"a better tool"


# Bad input


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A destination with something in it, that must stay as it is."""
    path = tmp_path / "out"
    path.mkdir()
    (path / "noise").write_bytes(b"mine")
    os.utime(path, ns=(7, 7))
    return path


def refuses(
    files: FileRemote, layers: list[Descriptor], out: Path, *sources: str, error: type[ShipwayError] = Corrupt
) -> str:
    """Extract, and return the message of the error that has to come, and has to leave `out` as it was."""
    before = describe(out)
    with pytest.raises(error) as caught:
        extract_remote(files, layers, out.parent, out, sources)
    assert type(caught.value) is error
    assert describe(out) == before
    return str(caught.value)


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def annotated(layer: Descriptor, name: str, value: str) -> Descriptor:
    key = next(key for key in layer.annotations if key.endswith(name))
    return replace(layer, annotations={**layer.annotations, key: value})


def test_a_damaged_chunk_is_refused_and_named(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    layers = put_versions(files, [CHUNKED] * 3)
    entry = RemoteTree(files, layers[:1]).get("noise")
    assert entry is not None
    chunk = entry.chunks[2]
    damage(files.path(layers[0]), chunk.offset + chunk.length // 2, b"damage")
    message = refuses(files, layers, out, "noise", error=DigestMismatch)
    assert "noise" in message
    assert layers[0].digest in message


def test_a_chunk_in_the_place_of_another_is_refused(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    layers = put_versions(files, [CHUNKED] * 3)
    entry = RemoteTree(files, layers[:1]).get("noise")
    assert entry is not None
    one, two = next((a, b) for a in entry.chunks for b in entry.chunks if a.offset < b.offset and a.length >= b.length)
    blob = files.path(layers[0]).read_bytes()
    damage(files.path(layers[0]), one.offset, blob[two.offset : two.offset + two.length])
    refuses(files, layers, out, "noise", error=DigestMismatch if one.size == two.size else Corrupt)


@pytest.mark.parametrize("source", ["noise", "/"])
def test_a_blob_that_ends_early_is_truncated(
    files: FileRemote, put_versions: PutVersions, out: Path, source: str
) -> None:
    for compression in (CHUNKED, TAR):
        layers = put_versions(files, [compression])
        if compression is CHUNKED:  # the table of contents stays readable, the end of the contents does not
            tree = RemoteTree(files, layers)
            tree.names("")
            os.truncate(files.path(layers[0]), layers[0].size // 2)
            before = describe(out)
            with pytest.raises(Truncated):
                tree.extract(out, [source])
            assert describe(out) == before
        else:
            os.truncate(files.path(layers[0]), layers[0].size // 3)
            refuses(files, layers, out, source, error=Truncated)


def test_a_missing_blob_is_not_found(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    for compression in (CHUNKED, GZIP):
        layers = put_versions(files, [compression] * 3)
        files.path(layers[0]).unlink()
        assert layers[0].digest in refuses(files, layers, out, error=NotFound)


def test_an_unknown_media_type_is_refused_before_anything_moves(
    files: FileRemote, put_versions: PutVersions, out: Path
) -> None:
    layers = put_versions(files, [GZIP])
    strange = [replace(layers[0], media_type="application/vnd.acme.layer+lzma")]
    assert "lzma" in refuses(files, strange, out, error=UnknownMediaType)
    assert not files.requests


def test_a_damaged_table_of_contents_is_refused(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    layers = put_versions(files, [CHUNKED])
    location = toc_location(layers[0])
    assert location is not None
    damage(files.path(layers[0]), location.offset + location.length // 2, b"damage")
    assert layers[0].digest in refuses(files, layers, out, "noise", error=DigestMismatch)


def test_annotations_that_lie_are_refused(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    layer = put_versions(files, [CHUNKED])[0]
    location = toc_location(layer)
    assert location is not None
    offset, length, plain = location.offset, location.length, location.uncompressed
    for position, error in [
        (f"{offset + 1}:{length}:{plain}:1", DigestMismatch),
        (f"{offset}:{length - 1}:{plain}:1", DigestMismatch),
        (f"{offset}:{length}:{plain - 1}:1", SizeMismatch),
        (f"{offset}:{length}:{plain + 1}:1", Truncated),
        (f"{offset}:{layer.size}:{plain}:1", Corrupt),
        (f"{offset}:{length}:{1 << 40}:1", Corrupt),
        ("-1:1:1:1", Corrupt),
        ("x", Corrupt),
    ]:
        refuses(files, [annotated(layer, "manifest-position", position)], out, "noise", error=error)
    refuses(files, [annotated(layer, "manifest-checksum", f"sha256:{0:064}")], out, "noise", error=DigestMismatch)


def test_a_plain_layer_with_a_wrong_digest_or_size_is_refused_when_read_to_its_end(
    files: FileRemote, put_versions: PutVersions, out: Path
) -> None:
    layer = put_versions(files, [GZIP])[0]
    content = files.path(layer).read_bytes()
    other = replace(layer, digest=f"sha256:{1:064}")
    files.path(other).write_bytes(content)
    assert other.digest in refuses(files, [other], out, "bin", error=DigestMismatch)
    refuses(files, [replace(layer, size=layer.size + 1)], out, "bin", error=Truncated)
    refuses(files, [replace(layer, size=layer.size - 1)], out, "bin", error=DigestMismatch)


@pytest.mark.parametrize("compression", [GZIP, ZSTD, TAR])
def test_a_plain_layer_damaged_on_its_way_fails_by_its_digest_whatever_its_bytes_became(
    files: FileRemote, put_versions: PutVersions, out: Path, compression: Compression
) -> None:
    layer = put_versions(files, [compression])[0]
    damage(files.path(layer), layer.size // 2, bytes(range(256)))
    refuses(files, [layer], out, error=DigestMismatch)


def test_a_plain_layer_that_changes_between_two_readings_is_refused(
    files: FileRemote, put_versions: PutVersions, tmp_path: Path, out: Path
) -> None:
    """A later reading stops early, so it is the file's own digest that must protect it."""
    layer = put_versions(files, [TAR])[0]
    tree = RemoteTree(files, [layer], tmp_path)
    tree.names("")
    place = files.path(layer).read_bytes().index(b"#!/bin/sh\nexit 0\n")
    damage(files.path(layer), place, b"#!/bin/rm")
    before = describe(out)
    with pytest.raises(DigestMismatch, match=layer.digest):
        tree.extract(out, ["bin/tool"])
    assert describe(out) == before


def test_sources_that_are_not_there_are_named(files: FileRemote, put_versions: PutVersions, out: Path) -> None:
    for stack in ([CHUNKED] * 3, [GZIP] * 3):
        layers = put_versions(files, stack)
        assert "private/secret" in refuses(files, layers, out, "private/secret", error=NotFound)
        assert "empty" in refuses(files, layers, out, "bin/tool", "empty", error=NotFound)
        assert "etc/passwd" in refuses(files, layers, out, "../../etc/passwd", error=NotFound)


def test_a_callback_that_raises_ends_a_download_and_leaves_nothing(
    files: FileRemote, put_versions: PutVersions, out: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.done > 3 << 20:
            raise KeyboardInterrupt

    before = describe(out)
    for compression in (CHUNKED, GZIP):
        layers = put_versions(files, [compression] * 3)
        with pytest.raises(KeyboardInterrupt):
            extract_remote(files, layers, tmp_path, out, progress=stop)
        assert describe(out) == before


def test_a_reader_that_stops_early_ends_the_downloads(
    files: FileRemote, versions: list[Path], put_versions: PutVersions
) -> None:
    before = set(threading.enumerate())
    tree = RemoteTree(files, put_versions(files, [CHUNKED] * 3))
    wanted = [entry for entry in walk(tree) if entry.is_file and entry.size]
    with closing(tree.read(wanted)) as reading:
        entry, content = next(reading)
        assert everything(content) == (versions[-1] / entry.path).read_bytes()
    assert set(threading.enumerate()) <= before
