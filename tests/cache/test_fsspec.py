"""Refs as a filesystem of fsspec: pandas and friends read from them, here or elsewhere, and little moves."""

from __future__ import annotations

import csv
import errno
import io
import multiprocessing
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.caches import OpenCache
from support.contents import random_bytes

from shipway import Cache, Corrupt, Traffic
from shipway.layers.toc import toc_location
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install shipway[fsspec])")

ROWS = 200_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    (path / "tables/more").mkdir(parents=True)
    with open(path / "tables/large.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "noise"])
        noise = random_bytes(16 * ROWS).hex()
        writer.writerows([row, noise[32 * row : 32 * row + 32]] for row in range(ROWS))
    for name in ("one", "two", "more/three"):
        (path / f"tables/{name}.csv").write_text(f"name,size\n{name},{len(name)}\n")
    (path / "tables/link.csv").symlink_to("/tables/one.csv")
    (path / "tables/up").symlink_to("..")
    (path / "tables/nowhere.csv").symlink_to("no/such")
    (path / "readme [v1].md").write_text("# Tables\n")
    return path


@contextmanager
def published(root: Path, tree: Path) -> Iterator[tuple[Cache, str]]:
    """Yield a store that has the tree under a key, and the reference where it is served."""
    with (
        Cache.open(root, driver="native") as cache,
        cache.import_tree(tree) as ref,
        serving(StoreBackend(cache)) as url,
    ):
        reference = "oci://" + url.removeprefix("http://") + "/team/tables:v1"
        ref.push(reference)
        cache.put("tables", ref)
        yield cache, reference


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[tuple[Cache, str]]:
    with published(tmp_path_factory.mktemp("served") / "store", tree) as found:
        yield found


@pytest.fixture(params=["remote", "key", "id"])
def where(request: pytest.FixtureRequest, served: tuple[Cache, str], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yield the beginning of URLs, and the root of the store to use, for each way to name a ref."""
    cache, reference = served
    if request.param == "remote":
        yield f"shipway://{reference}!", str(tmp_path / "mine")
    elif request.param == "key":
        yield "shipway://key:tables!", str(cache.root)
    else:
        yield f"shipway://{next(iter(cache.disk_usage())).id[:12]}!", str(cache.root)


def traffic(filesystem: Any) -> Traffic:
    """Return what the only ref of a filesystem has moved."""
    (ref,) = filesystem._refs.values()
    moved: Traffic = ref.traffic
    return moved


def test_a_url_leads_to_the_filesystem_and_a_path(where: tuple[str, str], tree: Path) -> None:
    base, root = where
    fs, path = fsspec.url_to_fs(f"{base}/tables/one.csv", root=root)
    assert type(fs).__name__ == "ShipwayFileSystem"
    assert fs.cat_file(path) == (tree / "tables/one.csv").read_bytes()
    assert fs.unstrip_protocol(path) == f"{base}/tables/one.csv"
    with fsspec.open(f"{base}/tables/one.csv", "rt", root=root) as file:
        assert file.read() == (tree / "tables/one.csv").read_text()


def test_it_lists_and_tells(where: tuple[str, str], tree: Path) -> None:
    base, root = where
    fs, top = fsspec.url_to_fs(f"{base}/", root=root)
    assert fs.ls(top, detail=False) == [f"{top}/readme [v1].md", f"{top}/tables"]
    assert (fs.isdir(top), fs.isfile(f"{top}/tables/one.csv"), fs.exists(f"{top}/no")) == (True, True, False)
    info = fs.info(f"{top}/tables/large.csv")
    assert (info["type"], info["size"]) == ("file", (tree / "tables/large.csv").stat().st_size)
    assert fs.modified(info["name"]).timestamp() == pytest.approx((tree / "tables/large.csv").stat().st_mtime)
    kinds = {one["name"].rpartition("/")[2]: (one["type"], one["size"]) for one in fs.ls(f"{top}/tables")}
    assert kinds["link.csv"] == kinds["one.csv"] == ("file", len("name,size\none,3\n"))
    assert (kinds["up"][0], kinds["nowhere.csv"][0], kinds["more"][0]) == ("link", "link", "directory")
    assert fs.isdir(f"{top}/tables/up")
    assert fs.ls(f"{top}/tables/one.csv", detail=False) == [f"{top}/tables/one.csv"]
    inside = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(fs.find(top)) == sorted(f"{top}/{path}" for path in inside)
    assert fs.du(f"{top}/tables/more") == (tree / "tables/more/three.csv").stat().st_size


def test_patterns_find_files(where: tuple[str, str]) -> None:
    base, root = where
    fs, top = fsspec.url_to_fs(base, root=root)
    assert fs.glob(f"{base}/tables/[ot]*.csv") == [f"{top}/tables/one.csv", f"{top}/tables/two.csv"]
    assert f"{top}/tables/more/three.csv" in fs.glob(f"{top}/**/*.csv")
    files = fsspec.open_files(f"{base}/tables/*o*.csv", root=root)
    assert [file.path for file in files] == [
        f"{top}/tables/nowhere.csv",
        *(f"{top}/tables/{n}.csv" for n in ("one", "two")),
    ]


def test_a_tree_is_copied_out(where: tuple[str, str], tree: Path, tmp_path: Path) -> None:
    base, root = where
    fs, top = fsspec.url_to_fs(base, root=root)
    fs.get(f"{top}/tables/more/", f"{tmp_path}/out/", recursive=True)
    assert (tmp_path / "out/three.csv").read_bytes() == (tree / "tables/more/three.csv").read_bytes()


def test_what_fails_fails_as_files_do(where: tuple[str, str]) -> None:
    base, root = where
    fs, top = fsspec.url_to_fs(base, root=root)
    for path in (f"{top}/no/such", f"{top}/tables/nowhere.csv", "no mark", "!/x", "key:nobody!/x"):
        with pytest.raises(FileNotFoundError):
            fs.open(path)
    with pytest.raises(IsADirectoryError):
        fs.open(f"{top}/tables")
    for mode in ("wb", "ab", "r+b"):
        with pytest.raises(OSError, match="read-only") as caught:
            fs.open(f"{top}/tables/one.csv", mode)
        assert caught.value.errno == errno.EROFS


def test_several_refs_in_one_list_are_not_taken_for_each_other(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        with cache.import_tree(tmp_path / name) as ref:
            cache.put(name, ref)
    urls = ["shipway://key:a!/file", "shipway://key:b!/file"]
    read = []
    for file in fsspec.open_files(urls, "rt", root=str(cache.root)):
        with file as text:
            read.append(text.read())
    assert read == ["a", "b"]


def test_a_ref_stays_what_it_was_until_it_is_looked_up_again(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    fs = fsspec.filesystem("shipway", root=str(cache.root), skip_instance_cache=True)
    source = tmp_path / "source"
    source.mkdir()
    for text in ("first", "second"):
        (source / "file").write_text(text)
        with cache.import_tree(source) as ref:
            cache.put("moving", ref)
        assert fs.cat_file("key:moving!/file") == b"first"
    fs.invalidate_cache("key:moving!/file")
    assert fs.cat_file("key:moving!/file") == b"second"
    assert sum(record.in_use for record in cache.disk_usage()) == 1
    fs.invalidate_cache()
    assert sum(record.in_use for record in cache.disk_usage()) == 0


def test_the_beginning_of_a_large_remote_file_moves_little(served: tuple[Cache, str], tmp_path: Path) -> None:
    _, reference = served
    fs, path = fsspec.url_to_fs(f"shipway://{reference}!/tables/large.csv", root=str(tmp_path / "mine"))
    with fs.open(path, "rt", newline="") as file:
        rows = [row for row, _ in zip(csv.reader(file), range(11), strict=False)]
    assert rows[10][0] == "9"
    (ref,) = fs._refs.values()
    table = toc_location(ref.layers[0].descriptor)
    assert table is not None
    whole = ref.size()
    assert whole > 3 << 20
    moved = traffic(fs)
    assert moved.received < table.length + (1 << 20) + 4096  # a chunk is at most 1 MiB
    assert moved.requests <= 3  # manifest, table, chunk
    assert fs.cat_file(path, start=-20)[-20:] == fs.tail(path, 20)


def test_pandas_reads_ten_rows_without_fetching_the_rest(served: tuple[Cache, str], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    _, reference = served
    options = {"root": str(tmp_path / "mine")}
    url = f"shipway://{reference}!/tables/large.csv"
    frame = pandas.read_csv(url, nrows=10, storage_options=options)
    assert list(frame["number"]) == list(range(10))
    fs, _ = fsspec.url_to_fs(url, **options)
    (ref,) = fs._refs.values()
    assert traffic(fs).received < ref.size() // 4
    assert len(pandas.read_csv(url, storage_options=options)) == ROWS


def test_pandas_reads_from_the_store(served: tuple[Cache, str]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    cache, _ = served
    frame = pandas.read_csv("shipway://key:tables!/tables/link.csv", storage_options={"root": str(cache.root)})
    assert frame.to_dict("records") == [{"name": "one", "size": 3}]


def _in_another_process(pickled: bytes, path: str, found: Any) -> None:
    fs = pickle.loads(pickled)
    found.put(fs.cat_file(path))


def test_it_goes_to_another_process(served: tuple[Cache, str], tmp_path: Path) -> None:
    """As Dask's workers have it."""
    _, reference = served
    fs, path = fsspec.url_to_fs(f"shipway://{reference}!/tables/two.csv", root=str(tmp_path / "mine"))
    content = fs.cat_file(path)
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=_in_another_process, args=(pickle.dumps(fs), path, found))
    process.start()
    assert found.get(timeout=60) == content
    process.join(60)
    assert process.exitcode == 0


def test_damage_keeps_its_own_type(tree: Path, tmp_path: Path) -> None:
    with published(tmp_path / "store", tree) as (cache, reference):
        blob = max((cache.root / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        blob.chmod(0o600)
        with blob.open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"damage" * 1000)
        fs, path = fsspec.url_to_fs(f"shipway://{reference}!/tables/large.csv", root=str(tmp_path / "mine"))
        with pytest.raises(Corrupt), fs.open(path) as file, io.TextIOWrapper(file) as text:
            text.read()
