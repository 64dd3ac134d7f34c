"""Of eStargz layers too a pull moves what is missing, as far as no headers are compressed with what is here."""

from __future__ import annotations

import gzip
import io
import os
import random
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import random_trees
from support.caches import OpenCache, cache, open_cache
from support.images import FileRemote, put_layer
from support.stargz import OLD_FOOTER, Json, written
from support.trees import below, describe, make_noisy_tree

from shipway import Cache, Progress, Way, oci
from shipway.errors import Corrupt
from shipway.explanations import LayerPulled
from shipway.layers import chunked
from shipway.layers.compression import Compression
from shipway.layers.contents import ChunkReader
from shipway.layers.formats import contents_of
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import ProgressCallback
from shipway.server import serving
from shipway.server.store_backend import StoreBackend
from shipway.transfer.assemble import Assembly
from shipway.transfer.chunked import keep, stream_table
from shipway.transfer.pull import pull
from shipway.trees.entry import Chunk, Entry

__all__ = ["cache", "open_cache"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of 20 files that do not compress, two large ones, and all kinds of things."""
    made = make_noisy_tree(tmp_path / "tree", files=20, large=6 << 20)
    (made / "many/large").write_bytes(random.Random(8).randbytes(4 << 20))
    return made


def pulled(
    cache: Cache, remote: FileRemote, *layers: Descriptor, progress: ProgressCallback | None = None
) -> tuple[Record, LayerPulled]:
    """Pull, let go of the tree, and return its record and how its last layer came."""
    diff_ids = [layer.annotations[oci.UNCOMPRESSED] for layer in layers]
    done = pull(cache.store, "test", layers, diff_ids, remote=remote, progress=progress)
    cache.store.drop_snapshots(cache.store.records.release(done.record.id))
    return done.record, done.layers[-1]


def shown(cache: Cache, record: Record) -> dict[str, object]:
    with cache.get(record.id) as ref, ref.mounted() as path:
        return dict(describe(path))


# Writers of layers

Put = Callable[[FileRemote, Path], Descriptor]


def put_made(remote: FileRemote, made: tuple[Descriptor, bytes]) -> Descriptor:
    layer, blob = made
    remote.put_blob(layer, lambda: io.BytesIO(blob))
    return layer


def ours(remote: FileRemote, tree: Path) -> Descriptor:
    return put_layer(remote, None, tree, Compression.ESTARGZ)


def ours_without_saying_so(remote: FileRemote, tree: Path) -> Descriptor:
    layer = ours(remote, tree)
    annotations = {key: value for key, value in layer.annotations.items() if key != chunked.HEADERS}
    return msgspec.structs.replace(layer, annotations=annotations)


def another(remote: FileRemote, tree: Path) -> Descriptor:
    return put_made(remote, written(tree).finish())


def of_before(remote: FileRemote, tree: Path) -> Descriptor:
    return put_made(remote, written(tree).finish(OLD_FOOTER))


def prefetching(remote: FileRemote, tree: Path) -> Descriptor:
    return put_made(remote, written(tree, first=["many/file010", "bin/tool"]).finish())


def sharing(remote: FileRemote, tree: Path) -> Descriptor:
    """Put a layer of chunks of 30,000 bytes, several of which are compressed together."""
    return put_made(remote, written(tree, chunk=30_000, least=100_000, first=["many/file010"]).finish())


WRITERS = pytest.mark.parametrize("put", [ours, ours_without_saying_so, another, of_before, prefetching, sharing])
NATIVE = pytest.mark.parametrize("open_cache", ["native"], indirect=True)
SOME = pytest.mark.parametrize("put", [ours, another, sharing])


def entries_of(remote: FileRemote, layer: Descriptor) -> list[Entry]:
    contents = contents_of(layer)
    assert contents is not None
    blob = remote.path(layer).read_bytes()
    table = contents.fetch(lambda offset, length: blob[offset : offset + length], "blob")
    return list(contents.parse(table, "blob"))


def change(path: Path) -> None:
    """Change a byte in the middle of a large file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def chunk_in_the_middle(entries: list[Entry], path: str) -> Chunk:
    entry = next(entry for entry in entries if entry.path == path)
    return next(chunk for chunk in entry.chunks if chunk.start + chunk.size > entry.size // 2)


def test_of_a_layer_of_our_own_only_what_changed_moves(cache: Cache, remote: FileRemote, tree: Path) -> None:
    pulled(cache, remote, ours(remote, tree))
    change(tree / "large")
    (tree / "many/file007").write_bytes(os.urandom(10_000))
    (tree / "many/file008").rename(tree / "many/another name")
    second = ours(remote, tree)
    before = remote.traffic.received
    record, layer = pulled(cache, remote, second)
    assert layer.way is Way.ASSEMBLED
    changed = chunk_in_the_middle(entries_of(remote, second), "large").length + 10_000
    assert changed <= layer.ranges < changed + 5_000
    assert remote.traffic.received - before == layer.fetched
    assert layer.deduplicated > 12_000_000
    assert shown(cache, record) == describe(tree)


def test_of_another_writers_the_chunks_that_changed_and_those_that_headers_follow(
    cache: Cache, remote: FileRemote, tree: Path
) -> None:
    pulled(cache, remote, another(remote, tree))
    change(tree / "large")
    second = another(remote, tree)
    entries = entries_of(remote, second)
    last = sum(entry.chunks[-1].length for entry in entries if entry.chunks)
    needed = last + chunk_in_the_middle(entries, "large").length
    record, layer = pulled(cache, remote, second)
    assert layer.way is Way.ASSEMBLED
    assert needed < layer.ranges < needed + 600_000  # with what is less than a request away
    assert layer.deduplicated > 9_000_000
    assert shown(cache, record) == describe(tree)


@pytest.mark.slow
@WRITERS
def test_a_tree_that_was_put_together_is_the_same_and_serves_the_next(
    cache: Cache, remote: FileRemote, tree: Path, put: Put
) -> None:
    pulled(cache, remote, put_layer(remote, None, tree) if put is ours else put(remote, tree))
    for number in range(2):
        change(tree / "large")
        (tree / "many/file008").write_bytes(os.urandom(number))
        second = put(remote, tree)
        record, layer = pulled(cache, remote, second)
        assert (layer.way, layer.reason) == (Way.ASSEMBLED, "most of its contents were here already")
        assert record.diff_id == second.annotations[oci.UNCOMPRESSED]
        assert shown(cache, record) == describe(tree)
    assert cache.verify() == []


@NATIVE
@SOME
def test_contents_that_are_damaged_here_are_fetched(cache: Cache, remote: FileRemote, tree: Path, put: Put) -> None:
    record, _ = pulled(cache, remote, put(remote, tree))
    files = cache.root / "snapshots" / (record.snapshot or "") / "fs"
    change(files / "many/large")
    (files / "many/file003").write_bytes(b"x" * 20_000)
    (files / "many/file004").unlink()
    change(tree / "large")
    record, layer = pulled(cache, remote, put(remote, tree))
    assert layer.way is Way.ASSEMBLED
    assert shown(cache, record) == describe(tree)


@NATIVE
def test_headers_that_are_not_ours_though_it_is_said_lead_to_the_whole_blob(
    cache: Cache, remote: FileRemote, tree: Path
) -> None:
    pulled(cache, remote, another(remote, tree))
    change(tree / "large")
    said = {chunked.HEADERS: chunked.HEADERS_VERSION}
    for path in below(tree):  # times that tables of seconds can say
        os.utime(path, (10**9, 10**9), follow_symlinks=False)
    os.utime(tree, (10**9, 10**9))
    record, layer = pulled(cache, remote, oci.annotated(another(remote, tree), said))
    assert layer.way is Way.FETCHED
    assert "could not be put together" in layer.reason
    assert shown(cache, record) == describe(tree)


class Stop(Exception):
    """Raised by a progress callback."""


@NATIVE
@SOME
def test_an_interrupted_pull_fetches_nothing_twice(cache: Cache, remote: FileRemote, tree: Path, put: Put) -> None:
    pulled(cache, remote, put(remote, tree))
    for number in range(0, 20, 5):
        (tree / f"many/file{number:03}").write_bytes(os.urandom(1_000_000))
    second = put(remote, tree)

    def stop(progress: Progress) -> None:
        if progress.task == "pull" and progress.done > 3_000_000:
            raise Stop

    before = remote.traffic.received
    with pytest.raises(Stop):
        pulled(cache, remote, second, progress=stop)
    came = remote.traffic.received - before
    assert came > 3_000_000
    before = remote.traffic.received
    record, moved = pulled(cache, remote, second)
    assert moved.way is Way.ASSEMBLED
    assert moved.tables == 0
    assert remote.traffic.received - before == moved.ranges < 3_000_000
    assert shown(cache, record) == describe(tree)


@NATIVE
def test_a_server_sends_only_that_and_explain_says_so(open_cache: OpenCache, tree: Path) -> None:
    one, two = open_cache("one"), open_cache("two")
    reports = []
    with serving(StoreBackend(one)) as url:
        place = f"oci://{url.removeprefix('http://')}/tools:v1"
        for _ in range(2):
            with one.import_tree(tree) as ref:
                ref.push(place, compression="estargz")
            with two.remote(place) as there, there.pull() as here, here.mounted(readonly=True) as path:
                assert describe(path) == describe(tree)
                reports.append(two.explain_ref(here.id).pulled)
            change(tree / "large")
    first, second = reports
    assert first is not None
    assert second is not None
    assert [layer.way for layer in (*first.layers, *second.layers)] == [Way.FETCHED, Way.ASSEMBLED]
    assert second.layers[0].deduplicated > 12_000_000
    assert second.fetched < first.fetched // 4


# Tables that say what is not so

Tamper = Callable[[list[Json]], object]


def chunks_of(records: list[Json], name: str) -> list[Json]:
    return [record for record in records if record["name"] == name]


def at_one_place(records: list[Json]) -> None:
    one, other = chunks_of(records, "large")[3:5]
    other["offset"] = one["offset"]


def exchanged(records: list[Json]) -> None:
    one, other = chunks_of(records, "large")[3:5]
    one["offset"], other["offset"] = other["offset"], one["offset"]


def of_another_content(records: list[Json]) -> None:
    """A chunk is said to be another one, of the same size, which is here."""
    one, other = chunks_of(records, "large")[3:5]
    one["chunkDigest"] = other["chunkDigest"]


def less_than_there_is(records: list[Json]) -> None:
    """Two chunks are one, which has the content of the first and is as long as both."""
    one, other = chunks_of(records, "large")[3:5]
    one["chunkSize"] += other["chunkSize"]
    records.remove(other)


LIES: dict[str, tuple[Way | None, Tamper]] = {
    "chunks at one place": (Way.FETCHED, at_one_place),
    "chunks at each other's places": (Way.FETCHED, exchanged),
    "a chunk of another content": (Way.FETCHED, of_another_content),
    "a chunk inside another": (Way.FETCHED, lambda records: chunks_of(records, "large")[-1].update(innerOffset=1000)),
    "a last chunk that begins early": (
        Way.FETCHED,
        lambda records: chunks_of(records, "large")[-1].update(offset=chunks_of(records, "large")[-1]["offset"] - 1000),
    ),
    "a file at the beginning": (Way.FETCHED, lambda records: chunks_of(records, "many/file007")[0].update(offset=0)),
    "a chunk that ends late": (Way.FETCHED, less_than_there_is),
    "a chunk beyond the blob": (None, lambda records: chunks_of(records, "large")[3].update(offset=1 << 40)),
    "a chunk of another size": (None, lambda records: chunks_of(records, "large")[3].update(chunkSize=99)),
    "a chunk less": (None, lambda records: records.remove(chunks_of(records, "large")[3])),
    "a file less": (None, lambda records: records.remove(chunks_of(records, "many/file007")[0])),
    "another mode": (None, lambda records: chunks_of(records, "many/file007")[0].update(mode=0o4755)),
}


@NATIVE
@pytest.mark.parametrize("name", LIES)
def test_a_table_that_lies_leads_to_the_whole_blob_or_to_nothing(
    cache: Cache, remote: FileRemote, tmp_path: Path, name: str
) -> None:
    way, tamper = LIES[name]
    tree = tmp_path / "tree"
    (tree / "many").mkdir(parents=True)
    for path, size in (("large", 2_000_000), ("many/file007", 20_000), ("many/large", 600_000)):
        (tree / path).write_bytes(random.Random(size).randbytes(size))
    pulled(cache, remote, put_made(remote, written(tree, chunk=64 << 10).finish()))
    change(tree / "many/large")
    writer = written(tree, chunk=64 << 10)
    tamper(writer.records)
    lying = put_made(remote, writer.finish())
    if way is None:
        with pytest.raises(Corrupt):
            pulled(cache, remote, lying)
    else:
        record, layer = pulled(cache, remote, lying)
        assert layer.way is way
        assert "could not be put together" in layer.reason or "of no use" in layer.reason
        assert shown(cache, record) == describe(tree)
    record, layer = pulled(cache, remote, put_made(remote, written(tree, chunk=64 << 10).finish()))
    assert layer.way in (Way.ASSEMBLED, Way.HERE, Way.UNPACKED)
    assert shown(cache, record) == describe(tree)
    assert cache.verify() == []


# The law


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    random_tree=random_trees.TREES,
    chunk=st.integers(1, 3),
    least=st.sampled_from([0, 600, 3000]),
    first=st.booleans(),
    own=st.booleans(),
    choice=st.randoms(use_true_random=False),
)
def test_whatever_is_here_the_archive_is_that_of_the_blob(  # noqa: PLR0917  each is a thing it needs
    tmp_path: Path,
    random_tree: random_trees.Node,
    chunk: int,
    least: int,
    first: bool,
    own: bool,
    choice: random.Random,
) -> None:
    tree = random_trees.make(tmp_path / "tree", random_tree)
    remote = FileRemote(tmp_path / "remote")
    if own:
        layer = ours(remote, tree)
    else:
        ahead = [path.name for path in tree.iterdir() if path.is_file() and not path.is_symlink()][:1] if first else []
        layer = put_made(remote, written(tree, chunk=chunk, least=least, first=ahead).finish())
    blob = remote.path(layer).read_bytes()
    contents = contents_of(layer)
    assert contents is not None
    with closing(Store(tmp_path / "store", "native")) as store, ExitStack() as stack:
        store.kept.free()
        read = stream_table(remote, layer, contents, store.kept)
        with store.kept.writing() as pack:
            for one in (chunk for entry in read.entries for chunk in entry.chunks):
                if choice.random() < 0.5:
                    reader = ChunkReader(contents)
                    content = reader.content(one, lambda offset, length: blob[offset : offset + length], "")
                    keep(pack, contents, one, reader, content)
        assembly = Assembly(store, remote, layer, contents, read=read, stack=stack)
        assembly.prepare()
        made = b"".join(bytes(piece) for piece in assembly.archive(stack, lambda _: None))
    assert made == gzip.decompress(blob)
