"""A pull of a layer without a table of contents leaves its index: once its data is gone here, ranges of it are read."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace
from support.caches import OpenCache, cache, open_cache
from support.images import FileRemote, pack_layer
from support.plain_layers import GZIP, LAYERS, TAR, ZSTD, describe_layer, make_compressible_tree
from support.trees import describe

from shipway import Cache, Progress, oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError
from shipway.explanations import LayerPulled, Way
from shipway.layers.compression import Compression
from shipway.oci import Descriptor
from shipway.progress import ProgressCallback
from shipway.transfer.pull import pull
from shipway.transfer.remote_tree import RemoteTree
from shipway.trees.spool import Spool

__all__ = ["cache", "open_cache"]


@pytest.fixture
def remote(tmp_path: Path) -> FileRemote:
    return FileRemote(tmp_path / "blobs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_compressible_tree(tmp_path_factory.mktemp("indexes-of-pulls") / "source")


@pytest.fixture(scope="module")
def layers(source: Path) -> dict[str, tuple[Descriptor, bytes]]:
    return {name: make(source) for name, make in LAYERS.items()}


@pytest.fixture(params=LAYERS)
def layer(
    request: pytest.FixtureRequest, layers: dict[str, tuple[Descriptor, bytes]], remote: FileRemote
) -> Descriptor:
    return put(remote, *layers[request.param])


@pytest.fixture
def gzip_layer(layers: dict[str, tuple[Descriptor, bytes]], remote: FileRemote) -> Descriptor:
    return put(remote, *layers["gzip"])


def put(remote: FileRemote, descriptor: Descriptor, blob: bytes) -> Descriptor:
    remote.put_blob(descriptor, lambda: io.BytesIO(blob))
    return descriptor


def pulled(
    cache: Cache, remote: FileRemote, *layers: Descriptor, progress: ProgressCallback | None = None
) -> LayerPulled:
    """Pull, let go of the tree, and return how its last layer came."""
    diff_ids = [layer.annotations[oci.UNCOMPRESSED] for layer in layers]
    done = pull(cache.store, "test", layers, diff_ids, remote=remote, progress=progress)
    cache.store.drop_snapshots(cache.store.records.release(done.record.id))
    return done.layers[-1]


def index_of(cache: Cache, layer: Descriptor) -> bytes | None:
    index = cache.store.indexes.load(layer)
    return index.data.read(0, len(index.data)) if index is not None else None


def index_by_reading(remote: FileRemote, layer: Descriptor, open_cache: OpenCache) -> bytes | None:
    """Return the index that a store has which reads all of a remote layer."""
    reader = open_cache("reader")
    RemoteTree(remote, [layer], store=reader.store).names("")
    return index_of(reader, layer)


def forget_trees(cache: Cache) -> None:
    """Remove all records, and with them all blobs."""
    cache.prune(ids=[one.id for one in cache.disk_usage()])
    assert list(cache.disk_usage()) == []


def test_it_is_the_one_that_a_remote_read_makes(
    cache: Cache, open_cache: OpenCache, remote: FileRemote, layer: Descriptor
) -> None:
    assert pulled(cache, remote, layer).way is Way.FETCHED
    assert remote.traffic.received == layer.size
    assert index_of(cache, layer) == index_by_reading(remote, layer, open_cache) is not None


def test_when_all_refs_were_removed_one_file_costs_a_range(
    cache: Cache, remote: FileRemote, layer: Descriptor, source: Path, tmp_path: Path
) -> None:
    pulled(cache, remote, layer)
    forget_trees(cache)
    name = os.fsdecode(b"not-\xff-UTF-8")
    for file in ("file-200", name):
        done = RemoteTree(remote, [layer], store=cache.store).extract(tmp_path / "out", [file])
        assert done.traffic.requests == 1
        assert 0 < done.traffic.received < layer.size // 4
        assert (tmp_path / "out" / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.slow
def test_when_all_refs_were_removed_everything_extracts_by_it(
    cache: Cache, remote: FileRemote, layer: Descriptor, tmp_path: Path
) -> None:
    pulled(cache, remote, layer)
    forget_trees(cache)
    RemoteTree(remote, [layer], store=cache.store).extract(tmp_path / "out")
    RemoteTree(remote, [layer]).extract(tmp_path / "streamed")
    assert describe(tmp_path / "out") == describe(tmp_path / "streamed")


class Stop(Exception):
    """Raised by a progress callback."""


def test_a_pull_that_goes_on_where_another_broke_off_leaves_the_same(
    cache: Cache, open_cache: OpenCache, remote: FileRemote, layer: Descriptor
) -> None:
    def stop(progress: Progress) -> None:
        if progress.task == "pull" and progress.done > layer.size // 2:
            raise Stop

    with pytest.raises(Stop):
        pulled(cache, remote, layer, progress=stop)
    assert index_of(cache, layer) is None
    assert pulled(cache, remote, layer).resumed > layer.size // 3
    assert index_of(cache, layer) == index_by_reading(remote, layer, open_cache) is not None


def test_so_does_one_whose_beginning_was_wrong_and_came_again(
    cache: Cache, open_cache: OpenCache, remote: FileRemote, gzip_layer: Descriptor
) -> None:
    def stop(progress: Progress) -> None:
        if progress.task == "pull" and progress.done > gzip_layer.size // 2:
            raise Stop

    with pytest.raises(Stop):
        pulled(cache, remote, gzip_layer, progress=stop)
    (partial,) = cache.store.kept.directory.glob("partial-*")
    data = bytearray(partial.read_bytes())
    data[1_000_000] ^= 1
    partial.write_bytes(data)
    assert pulled(cache, remote, gzip_layer).resumed == 0
    assert index_of(cache, gzip_layer) == index_by_reading(remote, gzip_layer, open_cache) is not None


def test_layers_that_wait_for_those_below_leave_theirs(
    open_cache: OpenCache, remote: FileRemote, layers: dict[str, tuple[Descriptor, bytes]], tmp_path: Path
) -> None:
    """On the native driver the bytes of a layer are kept until the tree below is there, and read from there."""
    cache = open_cache()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/file").write_bytes(b"more" * 10_000)
    both = [put(remote, *layers["zstd"]), put(remote, *pack_layer(None, tmp_path / "more", GZIP))]
    pulled(cache, remote, *both)
    assert None not in [index_of(cache, layer) for layer in both]


def test_a_blob_with_a_wrong_digest_leaves_none(cache: Cache, remote: FileRemote, layer: Descriptor) -> None:
    wrong = replace(layer, digest=oci.sha256(b"another"))
    remote.path(wrong).write_bytes(remote.path(layer).read_bytes())
    with pytest.raises(DigestMismatch):
        pulled(cache, remote, wrong)
    assert index_of(cache, wrong) is None


def test_a_layer_with_a_wrong_diff_id_leaves_none(cache: Cache, remote: FileRemote, layer: Descriptor) -> None:
    with pytest.raises(DigestMismatch):
        pulled(cache, remote, replace(layer, annotations={oci.UNCOMPRESSED: oci.sha256(b"another")}))
    assert index_of(cache, layer) is None


@pytest.mark.parametrize("compression", [GZIP, ZSTD, TAR])
def test_an_archive_that_ends_in_the_middle_leaves_none(
    cache: Cache, remote: FileRemote, source: Path, compression: Compression
) -> None:
    archive = pack_layer(None, source, TAR)[1][:5_000_000]
    blob = {GZIP: gzip.compress(archive, 1), ZSTD: zstandard.compress(archive), TAR: archive}[compression]
    layer = put(remote, describe_layer(blob, compression, oci.sha256(archive)), blob)
    with pytest.raises(Corrupt):
        pulled(cache, remote, layer)
    assert index_of(cache, layer) is None


def test_one_that_is_known_is_not_made_again(cache: Cache, remote: FileRemote, gzip_layer: Descriptor) -> None:
    RemoteTree(remote, [gzip_layer], store=cache.store).names("")
    before = sorted(os.listdir(cache.store.kept.directory))
    assert before
    assert pulled(cache, remote, gzip_layer).way is Way.FETCHED
    assert sorted(os.listdir(cache.store.kept.directory)) == before


def test_a_layer_that_is_unpacked_from_a_blob_that_is_here_leaves_none(
    cache: Cache, remote: FileRemote, gzip_layer: Descriptor, tmp_path: Path
) -> None:
    pulled(cache, remote, gzip_layer)
    cache.store.kept.free()
    below = tmp_path / "below"
    below.mkdir()
    (below / "file").write_bytes(b"below")
    assert pulled(cache, remote, put(remote, *pack_layer(None, below, TAR)), gzip_layer).way is Way.UNPACKED
    assert index_of(cache, gzip_layer) is None


@pytest.mark.parametrize("compression", [Compression.ZSTD_CHUNKED, Compression.ESTARGZ])
def test_a_layer_with_a_table_has_no_need_of_one(
    cache: Cache, remote: FileRemote, source: Path, compression: Compression
) -> None:
    files = source.parent / "some files"
    files.mkdir(exist_ok=True)
    (files / "file").write_bytes((source / "file-200").read_bytes())
    layer = put(remote, *pack_layer(None, files, compression))
    pulled(cache, remote, layer)
    assert index_of(cache, layer) is None


def test_a_zstd_layer_of_one_large_frame_is_pulled_without(
    cache: Cache, remote: FileRemote, source: Path, layers: dict[str, tuple[Descriptor, bytes]]
) -> None:
    _, archive = layers["tar"]
    assert len(archive) > 17 << 20
    blob = zstandard.compress(archive)
    layer = put(remote, describe_layer(blob, ZSTD, oci.sha256(archive)), blob)
    moved = pulled(cache, remote, layer)
    assert (moved.way, index_of(cache, layer)) == (Way.FETCHED, None)
    (record,) = cache.disk_usage()
    with cache.get(record.id) as ref, ref.mounted() as path:
        assert describe(path) == describe(source)


def test_a_file_that_claims_a_hundred_gigabytes_of_holes_is_pulled_without(cache: Cache, remote: FileRemote) -> None:
    extents = b"1\n%d\n%d\n" % (50 << 30, len(b"in the middle"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        stored = extents.ljust(512, b"\0") + b"in the middle"
        info = tarfile.TarInfo("claims")
        info.size = len(stored)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(100 << 30)}
        tar.addfile(info, io.BytesIO(stored))
    blob = gzip.compress(archive.getvalue())
    layer = put(remote, describe_layer(blob, GZIP, oci.sha256(archive.getvalue())), blob)
    pulled(cache, remote, layer)
    assert index_of(cache, layer) is None
    (record,) = cache.disk_usage()
    with cache.get(record.id) as ref, ref.mounted() as path:
        assert (path / "claims").stat().st_size == 100 << 30
        assert (path / "claims").stat().st_blocks < 1000


def test_a_time_beyond_what_an_index_can_say_is_no_error_of_it(cache: Cache, remote: FileRemote) -> None:
    """What becomes of such a layer is the same whether there is to be an index or not."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("file")
        info.pax_headers = {"mtime": "99999999999999"}
        tar.addfile(info)
    data = archive.getvalue()
    layer = put(remote, describe_layer(data, TAR, oci.sha256(data)), data)
    outcomes = []
    for known in (False, True):
        if known:
            cache.store.indexes.save(layer, Spool(b"an index, so that none is made"))
        try:
            outcomes.append(str(pulled(cache, remote, layer).way))
        except ShipwayError as error:
            outcomes.append(f"{type(error).__name__}: {error.what}")
        forget_trees(cache)
    assert outcomes[0] == outcomes[1]


def test_a_store_that_cannot_keep_it_is_pulled_into_all_the_same(
    cache: Cache, remote: FileRemote, gzip_layer: Descriptor
) -> None:
    cache.store.kept.limit = 1
    assert pulled(cache, remote, gzip_layer).way is Way.FETCHED
    assert index_of(cache, gzip_layer) is None
