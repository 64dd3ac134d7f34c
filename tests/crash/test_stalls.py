"""Whoever is stopped while a layer comes, by an interrupt or a kill, ends at once, and goes on where it was later."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path

import pytest
from support.buckets import BUCKET, s3_environment, s3_server
from support.faulty_proxy import BLOBS, Fault, FaultyProxy, faulty_proxy
from support.registry import registry
from support.trees import describe

from shipway import Cache, LocalImmutableRef, NotFound

__all__ = ["registry"]

AT = 3 << 20
SMALL, LARGE = 12 << 20, 80 << 20
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
IN_SOCKETS = 1 << 20
"""Bytes that were sent to whoever was killed, and that it had not taken from its connections yet."""
PATIENCE = 30
"""Seconds in which a process ends; a read that nobody interrupts takes minutes, with its repetitions."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory, whose `store` has what is pulled and pushed."""
    return tmp_path_factory.mktemp("stalls")


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=["one connection", "several"])
def made(request: pytest.FixtureRequest, root: Path) -> Iterator[LocalImmutableRef]:
    (root / "tree").mkdir(exist_ok=True)
    (root / "tree/file").write_bytes(random.Random(3).randbytes(request.param))
    with Cache.open(root / "store", driver="native") as cache, cache.import_tree(root / "tree") as ref:
        yield ref


@pytest.fixture(scope="module")
def proxy(registry: str, made: LocalImmutableRef) -> Iterator[FaultyProxy]:
    made.push(f"oci://{registry}/stalls:x", compression="zstd")
    made.push(f"oci://{registry}/stalls:chunked")
    with faulty_proxy(registry) as proxy:
        yield proxy


@contextmanager
def running(root: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line on a store, and see to it that it is gone after the block."""
    command = [sys.executable, "-m", "shipway", "--root", str(root), "--driver", "native", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept(root: Path) -> int:
    """Return how many bytes have come of blobs that are not here yet."""
    return sum(path.stat().st_blocks * 512 for path in (root / "kept").glob("partial-*"))


def stop(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == CODES[number]
    assert b"Traceback" not in said


def assert_goes_on(proxy: FaultyProxy, root: Path, expected: LocalImmutableRef, came: int) -> None:
    """The store is sound, with nothing left of whoever was stopped but what came, which need not come again."""
    proxy.set()
    with Cache.open(root, driver="native") as cache:
        assert cache.verify() == []
        assert os.listdir(root / "ingest") == []
        assert [name for name in os.listdir(root / "locks") if name.startswith("l-")] == []
        with cache.remote(f"oci://{proxy.host}/stalls:x") as remote, remote.pull() as ref:
            assert proxy.received <= remote.size() - came + (64 << 10)
            with ref.mounted() as here, expected.mounted() as there:
                assert describe(here) == describe(there)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_an_interrupted_pull_ends_while_the_server_stalls(
    proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path, number: signal.Signals
) -> None:
    proxy.set(Fault("stall", BLOBS, "GET", at=AT, times=inf))
    connections = 4 if made.size() > LARGE // 2 else 1
    with running(tmp_path / "mine", "pull", f"oci://{proxy.host}/stalls:x") as process:
        until(lambda: proxy.stalled == connections and kept(tmp_path / "mine") >= connections * AT, process)
        stop(process, number)
    assert kept(tmp_path / "mine") >= connections * AT
    assert_goes_on(proxy, tmp_path / "mine", made, connections * AT)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_an_interrupted_extract_ends_while_the_server_stalls(
    proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path, number: signal.Signals
) -> None:
    proxy.set(Fault("stall", BLOBS, "GET", at=AT, times=inf))
    with running(tmp_path / "mine", "extract", f"oci://{proxy.host}/stalls:chunked", tmp_path / "out") as process:
        until(lambda: proxy.stalled, process)
        stop(process, number)
    assert not (tmp_path / "out/file").exists()
    assert_goes_on(proxy, tmp_path / "mine", made, 0)


@pytest.mark.slow
def test_an_interrupted_pull_waits_for_no_repetition(
    proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path
) -> None:
    configuration = Fault("delay", BLOBS, "GET")  # passes, since a main thread's sleep ends by itself
    proxy.set(configuration, Fault("status", BLOBS, "GET", retry_after="25", times=inf))
    with running(tmp_path / "mine", "pull", f"oci://{proxy.host}/stalls:x") as process:
        until(lambda: proxy.struck > 1, process)
        stop(process, signal.SIGINT)
    assert_goes_on(proxy, tmp_path / "mine", made, 0)


@pytest.mark.slow
def test_an_interrupted_pull_waits_for_no_other_that_pulls_the_same(
    proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path
) -> None:
    def is_waiting(pid: int) -> bool:
        return any("/l-chain-" in os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())

    proxy.set(Fault("stall", BLOBS, "GET", at=AT, times=inf))
    pull = "pull", f"oci://{proxy.host}/stalls:x"
    with running(tmp_path / "mine", *pull) as first:
        until(lambda: kept(tmp_path / "mine") >= AT, first)
        with running(tmp_path / "mine", *pull) as second:
            until(lambda: is_waiting(second.pid), second)
            stop(second, signal.SIGINT)
        stop(first, signal.SIGTERM)
    assert_goes_on(proxy, tmp_path / "mine", made, AT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_pull_that_is_killed_again_and_again_goes_on_each_time(
    proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with made.mounted() as there:
        size = (there / "file").stat().st_size  # which cannot be compressed
    proxy.set(Fault("slow", BLOBS, "GET", times=inf))
    kills = sorted(chance.uniform(0.1, 0.9) * size for _ in range(3))
    for enough in kills:
        with running(tmp_path / "mine", "pull", f"oci://{proxy.host}/stalls:x") as process:
            until(lambda enough=enough: kept(tmp_path / "mine") >= enough, process)  # type: ignore[misc]
            process.kill()
    with Cache.open(tmp_path / "mine", driver="native") as cache:
        with cache.remote(f"oci://{proxy.host}/stalls:x") as remote, remote.pull() as ref:
            assert proxy.received <= size * 1.15 + len(kills) * IN_SOCKETS
            with ref.mounted() as here, made.mounted() as there:
                assert describe(here) == describe(there)
        assert cache.verify() == []
        assert list((cache.root / "kept").glob("partial-*")) == []


@pytest.mark.slow
def test_an_interrupted_pull_ends_while_a_bucket_stalls(
    made: LocalImmutableRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment().items():
        monkeypatch.setenv(name, value)
    with s3_server() as server, faulty_proxy(server.url.removeprefix("http://")) as proxy:
        made.push(f"s3://{BUCKET}/stalls?endpoint_url={server.url}#x")
        proxy.set(Fault("stall", "/blobs/", "GET", at=AT, times=inf))
        with running(tmp_path / "mine", "pull", f"s3://{BUCKET}/stalls?endpoint_url=http://{proxy.host}#x") as process:
            # Until there are bytes, and not just a table of parts.
            until(lambda: proxy.stalled and kept(tmp_path / "mine") > AT // 2, process)
            stop(process, signal.SIGINT)
    with Cache.open(tmp_path / "mine", driver="native") as cache:
        assert cache.verify() == []
    assert kept(tmp_path / "mine") > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["registry", "bucket"])
def test_an_interrupted_push_ends_while_the_server_stalls(
    registry: str, root: Path, made: LocalImmutableRef, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name, value in s3_environment().items():
        monkeypatch.setenv(name, value)
    with s3_server() as server, ExitStack() as stack:
        if kind == "registry":
            proxy = stack.enter_context(faulty_proxy(registry))
            place = f"oci://{proxy.host}/{made.id}:x"
        else:
            proxy = stack.enter_context(faulty_proxy(server.url.removeprefix("http://")))
            place = f"s3://{BUCKET}/{made.id}?endpoint_url=http://{proxy.host}#x"
        proxy.set(Fault("stall request", "blobs", "PUT|PATCH", at=AT, times=inf))
        with running(root / "store", "push", made.id, place) as process:
            until(lambda: proxy.stalled, process)
            stop(process, signal.SIGINT)
        with pytest.raises(NotFound), Cache.open(root / "store") as cache, cache.remote(place):
            pass
        proxy.set()
        made.push(place)
