"""Layers of very many files are put together on the memory that few take, whatever is looked for at a time."""

from __future__ import annotations

import base64
import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from support.caches import OpenCache, cache, open_cache
from support.images import FileRemote, put_layer
from support.stargz import written
from support.trees import describe, make_noisy_tree

from shipway import Cache, Way, oci
from shipway.errors import Corrupt
from shipway.explanations import LayerPulled
from shipway.layers import chunked
from shipway.layers.archive import SplitLocation, split_location, split_members
from shipway.layers.compression import Compression
from shipway.local import contents
from shipway.local.rows import Record
from shipway.oci import Descriptor
from shipway.transfer import stock
from shipway.transfer.pull import pull
from shipway.trees.entry import Entry

__all__ = ["cache", "open_cache"]

Put = Callable[[FileRemote, Path], Descriptor]
NATIVE = pytest.mark.parametrize("open_cache", ["native"], indirect=True)


def with_own_headers(remote: FileRemote, tree: Path) -> Descriptor:
    return put_layer(remote, None, tree)


def with_a_tar_split(remote: FileRemote, tree: Path) -> Descriptor:
    layer = put_layer(remote, None, tree)
    annotations = {key: value for key, value in layer.annotations.items() if key != chunked.HEADERS}
    return msgspec.structs.replace(layer, annotations=annotations)


def estargz(remote: FileRemote, tree: Path) -> Descriptor:
    return put_layer(remote, None, tree, Compression.ESTARGZ)


def estargz_of_others(remote: FileRemote, tree: Path) -> Descriptor:
    layer, blob = written(tree, chunk=30_000, least=100_000).finish()
    remote.put_blob(layer, lambda: io.BytesIO(blob))
    return layer


WRITERS = pytest.mark.parametrize("put", [with_own_headers, with_a_tar_split, estargz])


def pulled(cache: Cache, remote: FileRemote, layer: Descriptor) -> tuple[Record, LayerPulled]:
    """Pull, let go of the tree, and return its record and how its layer came."""
    done = pull(cache.store, "test", [layer], [layer.annotations[oci.UNCOMPRESSED]], remote=remote)
    cache.store.drop_snapshots(cache.store.records.release(done.record.id))
    return done.record, done.layers[-1]


def shown(cache: Cache, record: Record) -> dict[str, object]:
    with cache.get(record.id) as ref, ref.mounted() as path:
        return dict(describe(path))


def bytes_taken(open_cache: OpenCache, tmp_path: Path, put: Put, files: int) -> int:
    """Return the most bytes that Python has while a layer is put together, of whose files all but one are here."""
    tree, remote = tmp_path / f"tree-{files}", FileRemote(tmp_path / f"remote-{files}")
    for number in range(files):
        path = tree / f"{number // 1000}" / f"a file, and not a small name for one, {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d has content, and another than others: %b\n" % (number, os.urandom(80)))
    with open_cache(tmp_path / f"store-{files}") as cache:
        pulled(cache, remote, put(remote, tree))
        (tree / "0" / "a new one").write_bytes(b"new")
        layer = put(remote, tree)
        tracemalloc.start()
        try:
            assert pulled(cache, remote, layer)[1].way is Way.ASSEMBLED
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.long
@NATIVE
@WRITERS
def test_a_file_more_takes_little_memory_more(open_cache: OpenCache, tmp_path: Path, put: Put) -> None:
    few, many = (bytes_taken(open_cache, tmp_path, put, files) for files in (5_000, 20_000))
    assert (many - few) / 15_000 < 500  # an entry with its chunk and their digests takes 900


@NATIVE
@pytest.mark.parametrize("put", [with_own_headers, with_a_tar_split, estargz, estargz_of_others])
@pytest.mark.parametrize("some", [1, 3])
def test_how_many_are_looked_for_at_a_time_is_of_no_consequence(  # noqa: PLR0917  each is a thing it needs
    cache: Cache, remote: FileRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, some: int
) -> None:
    monkeypatch.setattr(contents, "BLOCK", some)
    monkeypatch.setattr(stock, "LOOK", some)
    monkeypatch.setattr(contents, "_CACHED", some)
    tree = make_noisy_tree(tmp_path / "tree", files=20, large=6 << 20)
    pulled(cache, remote, put(remote, tree))
    data = bytearray((tree / "large").read_bytes())
    data[3 << 20] ^= 1
    (tree / "large").write_bytes(data)
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    layer = put(remote, tree)
    record, moved = pulled(cache, remote, layer)
    assert moved.way is Way.ASSEMBLED
    assert moved.fetched < layer.size // 2
    assert shown(cache, record) == describe(tree)


@NATIVE
def test_what_an_older_version_noted_of_contents_is_found(cache: Cache, remote: FileRemote, tmp_path: Path) -> None:
    tree = make_noisy_tree(tmp_path / "tree", files=20, large=6 << 20)
    first, _ = pulled(cache, remote, with_own_headers(remote, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    second = with_own_headers(remote, tree)
    assert cache.store.database.read("SELECT record FROM contents") == []
    contents.learn_blob(cache.store, cache.store.blobs.of_layer(str(first.diff_id))[0])
    ((places,),) = cache.store.database.read("SELECT places FROM contents")
    _, size = chunked.SKIPPABLE.unpack_from(places)
    assert size == 8  # one block
    with cache.store.database.write() as db:  # formerly it was that and nothing else
        db.execute("UPDATE contents SET places = ?", (places[chunked.SKIPPABLE.size + size :],))
    record, moved = pulled(cache, remote, second)
    assert moved.way is Way.ASSEMBLED
    assert moved.ranges < 15_000
    assert shown(cache, record) == describe(tree)


@NATIVE
def test_places_that_are_not_there_any_more_are_of_no_use(cache: Cache, remote: FileRemote, tmp_path: Path) -> None:
    tree = make_noisy_tree(tmp_path / "tree", files=20, large=6 << 20)
    first, _ = pulled(cache, remote, with_own_headers(remote, tree))
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    second = with_own_headers(remote, tree)
    contents.learn_blob(cache.store, cache.store.blobs.of_layer(str(first.diff_id))[0])
    with cache.store.database.write() as db:
        db.execute("UPDATE contents SET places = ?", (chunked.skippable(0),))
    record, moved = pulled(cache, remote, second)
    assert moved.way is Way.ASSEMBLED
    assert moved.deduplicated == 0
    assert moved.ranges > second.size // 2
    assert shown(cache, record) == describe(tree)


# Tar-splits


def split(*lines: dict[str, object]) -> tuple[bytes, SplitLocation]:
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    data = zstandard.ZstdCompressor().compress(text)
    return data, SplitLocation(0, len(data), len(text))


def file_line(name: str, size: int) -> dict[str, object]:
    return {"type": 1, "name": name, "size": size, "payload": None, "position": 0}


ENTRIES = [Entry(path=path, kind="reg", size=size) for path, size in (("a", 3), ("empty", 0), ("b", 4))]


def test_the_files_of_a_tar_split_are_those_of_the_table_in_its_order() -> None:
    segment = {"type": 2, "payload": base64.b64encode(b"header").decode()}
    data, location = split(segment, file_line("a", 3), file_line("empty", 0), file_line("./b", 4))
    assert list(split_members(data, location, ENTRIES, "")) == [(b"header", None), (b"", ENTRIES[0]), (b"", ENTRIES[2])]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([file_line("b", 4), file_line("a", 3)], id="another order"),
        pytest.param([file_line("a", 3)], id="a file less"),
        pytest.param([file_line("a", 3), file_line("b", 4), file_line("c", 5)], id="a file more"),
        pytest.param([file_line("a", 3), file_line("b", 5)], id="another size"),
        pytest.param([{"type": 2, "payload": "A" * (17 << 20)}], id="a line that does not end"),
    ],
)
def test_a_tar_split_that_does_not_fit_its_table_is_refused(lines: list[dict[str, object]]) -> None:
    data, location = split(*lines)
    with pytest.raises(Corrupt):
        list(split_members(data, location, ENTRIES, "the split"))


def test_a_tar_split_may_be_larger_than_a_table_and_no_larger_than_was_promised() -> None:
    data, location = split(file_line("a", 3), file_line("b", 4))
    with pytest.raises(Corrupt, match="longer than was promised"):
        list(split_members(data, SplitLocation(0, len(data), location.uncompressed - 1), ENTRIES, ""))
    for size, fits in ((chunked.MAX_TABLE + 1, True), (5 << 30, False)):
        annotations = {chunked.PREFIX + chunked.TAR_SPLIT_POSITION: f"100:50:{size}"}
        layer = Descriptor(media_type=oci.LAYER_ZSTD, digest=oci.sha256(b""), size=200, annotations=annotations)
        assert (split_location(layer) is not None) == fits
