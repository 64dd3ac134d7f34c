"""Memory is bounded whatever the size: a layer is packed, pushed, served, pulled and extracted from on 200 MB."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.contents import manifest_of, put
from support.peak import measured, peak
from support.stargz import written

from shipway import Cache, Way, oci
from shipway.references import Reference
from shipway.remotes.open import open_target

LIMIT = 200_000_000
MANY = 150_000_000
MIB = 1 << 20
PIECE = random.Random(7).randbytes(64 << 10)


def block(number: int) -> bytes:
    """Return a MiB like no other, that packs to a tenth and costs next to nothing to make."""
    return number.to_bytes(8, "big") * 512 + PIECE[4096:] + PIECE * 15


def make_large_tree(root: Path, size: int) -> Path:
    """Make a tree of `size` bytes: one file that is a quarter of it, a hole that is half, many files of 4 MiB."""
    root.mkdir()
    with open(root / "large", "wb") as file:
        file.writelines(map(block, range(size // 4 // MIB)))
    with open(root / "hole", "wb") as file:
        file.truncate(size // 2)
    for number in range(size // 4 // (4 * MIB)):
        (root / f"part-{number}").write_bytes(block(-number & 0xFFFF) * 4)
    (root / "small").write_bytes(b"small")
    return root


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the reference of a store that is served by a process of its own, and the process's id."""
    command = [sys.executable, "-m", "shipway", "--root", str(root), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().split()[-1].rpartition("/")[0], process.pid
        finally:
            process.terminate()


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(512 * MIB, marks=pytest.mark.slow, id="512 MiB"),
        pytest.param(10_240 * MIB, marks=[pytest.mark.long, pytest.mark.timeout(3600)], id="10 GiB"),
    ],
)
def test_everything_is_done_on_200_mb(size: int) -> None:
    with tempfile.TemporaryDirectory() as directory:  # and not tmp_path, which would be kept
        check(Path(directory), size)


def check(tmp_path: Path, size: int) -> None:
    tree = make_large_tree(tmp_path / "tree", size)
    mine, other = tmp_path / "mine", tmp_path / "other"
    names = {path.name: digest(path) for path in tree.iterdir()}
    peaks = {"commit": measured(mine, "commit", tree, "--key", "large")}
    shutil.rmtree(tree)
    with served(tmp_path / "worker") as (base, pid):
        image = f"{base}/team/large:v1"
        peaks["push"] = measured(mine, "push", "key:large", image)
        shutil.rmtree(mine)
        peaks["extract one"] = measured(other, "extract", image, tmp_path / "one", "/small")
        peaks["read one"] = measured(other, "cat", image, "/large")
        peaks["extract all"] = measured(other, "extract", image, tmp_path / "all")
        assert {path.name: digest(path) for path in (tmp_path / "all").iterdir()} == names
        shutil.rmtree(tmp_path / "all")
        peaks["pull"] = measured(other, "pull", image)
        peaks["serve"] = peak(pid)
    sys.stdout.write(f"{ {what: f'{used / 1e6:.0f} MB' for what, used in peaks.items()} }\n")
    assert {what: used for what, used in peaks.items() if used > LIMIT} == {}


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("files", [30_000, 300_000])
def test_many_small_files_are_pushed_pulled_and_extracted_on_little_memory(files: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        peaks = small_files(Path(directory), files)
    print({what: f"{used / 1e6:.0f} MB" for what, used in peaks.items()})  # noqa: T201  pytest -rP
    assert {what: used for what, used in peaks.items() if used > MANY} == {}


def small_files(tmp_path: Path, files: int) -> dict[str, int]:
    """Return how much memory is taken by moving a layer of many files, all different, as a command each.

    And another, that differs in one of them: where the first is, that is put together.
    """
    tree, layout = tmp_path / "tree", f"oci-layout://{tmp_path / 'layout'}:x"
    for number in range(files):
        path = tree / f"{number // 10_000}" / f"{number // 100}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of %d\n" % number * (1 + number % 20))
    measured(tmp_path / "mine", "commit", tree, "--key", "many")
    (tree / "0" / "0" / "7").write_bytes(b"another content")
    measured(tmp_path / "mine", "commit", tree, "--key", "others")
    shutil.rmtree(tree)
    peaks = {}
    for form in ("zstd:chunked", "estargz"):
        for key, what in (("many", "pull"), ("others", "put together")):
            peaks[f"push {key} {form}"] = measured(
                tmp_path / "mine", "push", f"key:{key}", layout, "--force", "--compression", form
            )
            peaks[f"{what} {form}"] = measured(tmp_path / "other", "pull", layout)
        with Cache.open(tmp_path / "other") as cache:
            last = list(cache.disk_usage())[-1].id
            report = cache.explain_ref(last).pulled
            assert report is not None
            assert [layer.way for layer in report.layers] == [Way.ASSEMBLED]
        shutil.rmtree(tmp_path / "other")
        if form == "zstd:chunked":
            one, everything = tmp_path / "one", tmp_path / "everything"
            peaks["extract one"] = measured(tmp_path / "other", "extract", layout, one, f"/0/0/{files % 100}")
            peaks["extract all"] = measured(tmp_path / "other", "extract", layout, everything)
            peaks["extract all here"] = measured(tmp_path / "mine", "extract", "key:many", tmp_path / "local")
            shutil.rmtree(everything)
            shutil.rmtree(tmp_path / "local")
            shutil.rmtree(tmp_path / "other")
    return peaks


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_million_files_without_a_table_of_contents_are_extracted_and_pulled_on_little_memory() -> None:
    with tempfile.TemporaryDirectory() as directory:
        tmp_path = Path(directory)
        layout, out = f"oci-layout://{put_many(tmp_path / 'layout', 1_000_000)}:many", tmp_path / "out"
        peaks = {}
        for what in ("extract, the first time", "extract by the index"):
            peaks[what] = measured(tmp_path / "one", "extract", layout, out)
            shutil.rmtree(out)
        peaks["checksum"] = measured(tmp_path / "other", "checksum", layout)
        peaks["checksum again"] = measured(tmp_path / "other", "checksum", layout)
        peaks["extract one"] = measured(tmp_path / "other", "extract", layout, out, "/777/777123")
        peaks["files"] = measured(tmp_path / "other", "files", layout)
        peaks["pull"] = measured(tmp_path / "other", "pull", layout)
    print({what: f"{used / 1e6:.0f} MB" for what, used in peaks.items()})  # noqa: T201  pytest -rP
    assert {what: used for what, used in peaks.items() if used > MANY} == {}


def put_many(path: Path, files: int) -> Path:
    """Make a layout whose image `many` has one gzip layer, of so many small files."""
    data, diff_id = io.BytesIO(), hashlib.sha256()
    with gzip.GzipFile(fileobj=data, mode="wb", compresslevel=1) as blob:
        for number in range(files):
            name, content = f"{number // 1000:03}/{number:06}", b"content of %d\n" % number * (1 + number % 20)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            piece = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
            diff_id.update(piece)
            blob.write(piece)
        diff_id.update(bytes(1024))
        blob.write(bytes(1024))
    ids = [f"sha256:{diff_id.hexdigest()}"]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    with closing(open_target(Reference.parse(f"oci-layout://{path}:many"))) as remote:
        descriptor, manifest = manifest_of(
            put(remote, json.dumps(config).encode(), oci.CONFIG), put(remote, data.getvalue(), oci.LAYER_GZIP)
        )
        remote.put_manifest(descriptor, manifest, tag="many")
    return path


@pytest.mark.slow
def test_a_file_of_another_writer_that_is_one_large_chunk_is_read_on_little_memory(tmp_path: Path) -> None:
    tree, layout, out = tmp_path / "tree", f"oci-layout://{tmp_path / 'layout'}:large", tmp_path / "out"
    tree.mkdir()
    (tree / "large").write_bytes(PIECE * 1600)
    (tree / "small").write_bytes(b"small")
    layer, blob = written(tree, chunk=1 << 30).finish()
    ids = [layer.annotations[oci.UNCOMPRESSED]]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    with closing(open_target(Reference.parse(layout))) as remote:
        remote.put_blob(layer, lambda: io.BytesIO(blob), lambda _size: None)
        descriptor, manifest = manifest_of(put(remote, json.dumps(config).encode(), oci.CONFIG), layer)
        remote.put_manifest(descriptor, manifest, tag="large")
    peaks = {"extract": measured(tmp_path / "one", "extract", layout, out)}
    assert digest(out / "large") == digest(tree / "large")
    assert (out / "small").read_bytes() == b"small"
    peaks["cat"] = measured(tmp_path / "one", "cat", layout, "/large")
    peaks["pull"] = measured(tmp_path / "one", "pull", layout)
    assert {what: used for what, used in peaks.items() if used > 100_000_000} == {}
    with Cache.open(tmp_path / "other") as cache, cache.remote(layout) as ref:
        ref.extract(tmp_path / "again", "/small")
        assert ref.traffic.received < 200_000
