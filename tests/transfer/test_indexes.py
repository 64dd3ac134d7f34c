"""Layers without a table of contents: read whole once, by ranges from then on, also in another process."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import zstandard
from msgspec.structs import replace
from support.images import FileRemote
from support.plain_layers import LAYERS, ZSTD, make_compressible_tree
from support.trees import describe

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError
from shipway.layers.compression import media_type
from shipway.layers.frames_text import frame_places
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.refs import Extracted
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.spool import Spool


@pytest.fixture
def files(tmp_path: Path) -> FileRemote:
    return FileRemote(tmp_path / "blobs")


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Return a function that opens one store, each time as another process would."""
    opened: list[Store] = []

    def open_it() -> Store:
        for store in opened:
            store.close()
        opened.append(Store(tmp_path / "store", "native"))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_compressible_tree(tmp_path_factory.mktemp("indexes") / "source")


@pytest.fixture(scope="module")
def layers(source: Path) -> dict[str, tuple[Descriptor, bytes]]:
    return {name: make(source) for name, make in LAYERS.items()}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest, layers: dict[str, tuple[Descriptor, bytes]], files: FileRemote) -> Descriptor:
    descriptor, blob = layers[request.param]
    files.put_blob(descriptor, lambda: io.BytesIO(blob))
    return descriptor


def tree_of(files: FileRemote, layer: Descriptor, store: Store) -> RemoteTree:
    return RemoteTree(files, [layer], store=store)


def take(tree: RemoteTree, out: Path, *sources: str) -> Extracted:
    return tree.extract(out, sources)


def test_after_a_full_read_one_file_costs_a_small_share_also_in_a_new_process(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree_of(files, layer, open_store()).names("")
    assert files.traffic.received == layer.size
    done = take(tree_of(files, layer, open_store()), tmp_path / "out", "file-200")
    assert (tmp_path / "out/file-200").read_bytes() == (source / "file-200").read_bytes()
    assert done.traffic.requests == 1
    assert done.traffic.received < layer.size // 4


def test_in_the_same_process_too(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree = tree_of(files, layer, open_store())
    tree.names("")
    done = take(tree, tmp_path / "out", "file-200")
    assert (done.traffic.requests, done.traffic.received < layer.size // 4) == (1, True)


@pytest.mark.slow
def test_everything_extracts_by_the_index_as_from_the_stream(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree_of(files, layer, open_store()).names("")
    take(tree_of(files, layer, open_store()), tmp_path / "out")
    take(RemoteTree(files, [layer]), tmp_path / "streamed")
    assert describe(tmp_path / "out") == describe(tmp_path / "streamed")
    some = [f"file-{number:03}" for number in range(0, 400, 3)]
    take(tree_of(files, layer, open_store()), tmp_path / "some", "sparse", "large", *some)
    for name in ("sparse", "large", *some):
        assert (tmp_path / "some" / name).read_bytes() == (source / name).read_bytes()


def test_a_large_file_is_read_in_the_middle(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store]
) -> None:
    tree_of(files, layer, open_store()).names("")
    tree = tree_of(files, layer, open_store())
    entry = tree.get("large")
    assert entry is not None
    before = files.traffic.received
    with tree.open_file(entry) as file:
        file.seek(5_000_000)
        assert file.read(1000) == (source / "large").read_bytes()[5_000_000:5_001_000]
    assert files.traffic.received - before < layer.size // 3


def test_a_file_that_goes_through_several_spans_is_fetched_once(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree_of(files, layer, open_store()).names("")
    assert take(tree_of(files, layer, open_store()), tmp_path / "first", "large").traffic.received > 4_000_000
    assert take(tree_of(files, layer, open_store()), tmp_path / "second", "large").traffic.received == 0
    assert (tmp_path / "second/large").read_bytes() == (source / "large").read_bytes()
    before = files.traffic.received
    tree = tree_of(files, layer, open_store())
    entry = tree.get("large")
    assert entry is not None
    with tree.open_file(entry) as file:
        assert file.read() == (source / "large").read_bytes()
    assert files.traffic.received == before
    take(tree_of(files, layer, open_store()), tmp_path / "third", "sparse")
    assert take(tree_of(files, layer, open_store()), tmp_path / "fourth", "sparse").traffic.received == 0
    assert (tmp_path / "fourth/sparse").read_bytes() == (source / "sparse").read_bytes()


def test_what_a_seekable_file_read_of_a_span_is_there_for_the_next(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store]
) -> None:
    tree_of(files, layer, open_store()).names("")
    moved = []
    for _ in range(2):
        before = files.traffic.received
        tree = tree_of(files, layer, open_store())
        entry = tree.get("large")
        assert entry is not None
        with tree.open_file(entry) as file:
            file.seek(5_000_000)
            assert file.read(1000) == (source / "large").read_bytes()[5_000_000:5_001_000]
        moved.append(files.traffic.received - before)
    assert moved[0] > moved[1] == 0


def test_a_span_that_was_damaged_where_it_is_kept_is_fetched_again(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    store = open_store()
    tree_of(files, layer, store).names("")
    indexes = set(store.kept.directory.iterdir())
    first = take(tree_of(files, layer, store), tmp_path / "first", "large")
    for path in set(store.kept.directory.iterdir()) - indexes:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    second = take(tree_of(files, layer, open_store()), tmp_path / "second", "large")
    assert 0 < second.traffic.received < first.traffic.received
    assert (tmp_path / "second/large").read_bytes() == (source / "large").read_bytes()


def test_a_layer_is_read_to_its_end_once_that_costs_no_more_than_was_spent(
    files: FileRemote, layers: dict[str, tuple[Descriptor, bytes]], open_store: Callable[[], Store], tmp_path: Path
) -> None:
    descriptor, blob = layers["gzip"]
    files.put_blob(descriptor, lambda: io.BytesIO(blob))
    received = [
        take(tree_of(files, descriptor, open_store()), tmp_path / "out", "file-100").traffic.received for _ in range(12)
    ]
    early, whole = received[0], received.index(descriptor.size)
    assert early < descriptor.size // 3
    assert received[:whole] == [early] * whole
    assert all(size < descriptor.size // 4 for size in received[whole + 1 :])
    assert sum(received[:whole]) <= descriptor.size
    assert len(received[whole + 1 :]) >= 2


def test_damage_in_a_range_is_found(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree_of(files, layer, open_store()).names("")
    blob = bytearray(files.path(layer).read_bytes())
    for at in range(1000, len(blob), 50_000):
        blob[at] ^= 0x55
    files.path(layer).write_bytes(blob)
    tree = tree_of(files, layer, open_store())
    for name in ("file-050", "file-300", "large"):
        with pytest.raises(Corrupt):
            take(tree, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_an_index_that_was_changed_on_disk_is_not_used(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store]
) -> None:
    store = open_store()
    tree_of(files, layer, store).names("")
    for path in store.kept.directory.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    before = files.traffic.received
    tree_of(files, layer, open_store()).names("")
    assert files.traffic.received - before == layer.size


def test_what_was_read_of_a_blob_with_a_wrong_digest_makes_no_index(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store]
) -> None:
    wrong = replace(layer, digest=oci.sha256(b"another"))
    files.path(wrong).write_bytes(files.path(layer).read_bytes())
    store = open_store()
    with pytest.raises(DigestMismatch):
        tree_of(files, wrong, store).names("")
    assert store.indexes.load(wrong) is None


@pytest.mark.slow
def test_prune_drops_indexes_and_the_next_full_read_makes_them_again(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store]
) -> None:
    store = open_store()
    tree_of(files, layer, store).names("")
    assert store.indexes.load(layer) is not None
    store.kept.free()
    assert store.indexes.load(layer) is None
    tree_of(files, layer, store).names("")
    assert store.indexes.load(layer) is not None


def test_a_zstd_layer_of_one_large_frame_has_no_index_and_is_still_read(
    files: FileRemote, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("first", "last"):
            info = tarfile.TarInfo(name)
            info.size = 20 << 20
            tar.addfile(info, io.BytesIO(name[:1].encode() * info.size))
    blob = zstandard.compress(archive.getvalue())
    layer = Descriptor(media_type=media_type(ZSTD), digest=oci.sha256(blob), size=len(blob))
    files.put_blob(layer, lambda: io.BytesIO(blob))
    store = open_store()
    assert list(tree_of(files, layer, store).names("")) == ["first", "last"]
    assert store.indexes.load(layer) is None
    take(tree_of(files, layer, store), tmp_path / "out", "last")
    assert (tmp_path / "out/last").read_bytes() == b"l" * (20 << 20)


@pytest.mark.parametrize("rows", [1, 40_000])
def test_an_index_of_an_earlier_form_is_made_anew(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store], rows: int
) -> None:
    """That was one frame with everything in it."""
    store = open_store()
    document = [1, layer.digest, layer.size, 10_240, [[0, 0, 0, bytes(32), b""]], [[b"file", "reg"]] * rows]
    before = Spool(zstandard.compress(msgspec.msgpack.encode(document)))
    store.indexes.save(layer, before)
    assert store.indexes.load(layer) is None
    assert "large" in tree_of(files, layer, store).names("")
    index = store.indexes.load(layer)
    assert index is not None
    assert index.digest != before.digest()


def test_indexes_of_anything_are_refused_or_read(
    files: FileRemote, layer: Descriptor, open_store: Callable[[], Store]
) -> None:
    """Random damage that keeps the digest right: whoever writes the rows, nothing else than typed errors comes out."""
    store = open_store()
    tree_of(files, layer, store).names("")
    index = store.indexes.load(layer)
    assert index is not None
    places = frame_places(index.data)
    assert places is not None
    plain = [
        zstandard.decompress(index.data.read(start, end)) for start, end in pairwise([0, *(end for end, _ in places)])
    ]
    noise = random.Random(3)
    for _ in range(200):
        damaged = list(map(bytearray, plain))
        frame = noise.choice(damaged)
        for _ in range(noise.randrange(1, 4)):
            frame[noise.randrange(min(len(frame), 4000))] = noise.randrange(256)
        data = b"".join(zstandard.compress(bytes(one)) for one in damaged)
        try:
            list(type(index)(Spool(data), layer).parse(data, "the index"))
        except ShipwayError as error:
            assert isinstance(error, Corrupt)  # noqa: PT017  it may also be of no consequence


@pytest.mark.slow
def test_extracts_of_one_tree_at_a_time_read_right_while_its_index_is_made(
    files: FileRemote, layer: Descriptor, source: Path, open_store: Callable[[], Store], tmp_path: Path
) -> None:
    tree = tree_of(files, layer, open_store())

    def take_some(number: int) -> None:
        for name in (f"file-{number:03}", "large", f"file-{number + 100:03}"):
            take(tree, tmp_path / f"out-{number}", name)
            assert (tmp_path / f"out-{number}" / name).read_bytes() == (source / name).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take_some, range(4)))
