"""Networks that fail in front of real servers: the right tree or a typed error, and never a damaged store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support.certificates import Authority
from support.faulty_proxy import BLOBS, MANIFESTS, Fault, FaultyProxy, Kind, faulty_proxy
from support.registry import registry
from support.trees import Seen, describe

from shipway import Cache, Config, LocalImmutableRef, NotFound, RegistrySettings, RemoteImmutableRef, ShipwayError
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

__all__ = ["registry"]

KEY = "faults"
SOME = ("below/file03", "below/file20", "above")
ALWAYS = 1000
_numbers = count()

READING = {
    "cut": Fault("cut", BLOBS, "GET", at=5000),
    "cut at once": Fault("cut", BLOBS, "GET"),
    "cut again and again": Fault("cut", BLOBS, "GET", times=4, at=70_000),
    "reset": Fault("reset", BLOBS, "GET", at=5000),
    "stall": Fault("stall", BLOBS, "GET", at=5000),
    "corrupt": Fault("corrupt", BLOBS, "GET", at=100),
    "corrupt always": Fault("corrupt", BLOBS, "GET", at=100, times=ALWAYS),
    "shorten": Fault("shorten", BLOBS, "GET"),
    "lengthen": Fault("lengthen", BLOBS, "GET"),
    "out of order": Fault("delay", times=ALWAYS),
    "429": Fault("status", status=429, times=2),
    "503": Fault("status", status=503, times=2),
    "500 for good": Fault("status", BLOBS, status=500, times=ALWAYS),
    "404": Fault("status", BLOBS, "GET", status=404),
    "no ranges": Fault("refuse ranges", BLOBS, "GET", times=ALWAYS),
    "manifest cut": Fault("cut", MANIFESTS, "GET", at=20),
    "manifest corrupt": Fault("corrupt", MANIFESTS, "GET", at=20),
    "manifest stalls": Fault("stall", MANIFESTS, "GET", at=20),
    "manifest shortened": Fault("shorten", MANIFESTS, "GET"),
}
OF_BLOBS = [name for name in READING if not name.startswith("manifest") and name not in ("429", "cut at once")]
PASSING = {"cut again and again", "out of order", "429", "503", "no ranges"}
"""After these the tree must be there."""
FATAL = {"corrupt always", "500 for good", "manifest corrupt"}
"""After these it cannot be."""

WRITING = {
    "begin 503": Fault("status", "/blobs/uploads/", "POST", times=2),
    "begin 429": Fault("status", "/blobs/uploads/", "POST", status=429, times=2),
    "body cut": Fault("cut request", "/blobs/uploads/", "PUT", at=1000),
    "bodies cut": Fault("cut request", "/blobs/uploads/", "PUT", at=1000, times=ALWAYS),
    "answer lost": Fault("reset", "/blobs/uploads/", "PUT"),
    "stored 503": Fault("status", "/blobs/uploads/", "PUT"),
    "manifest 503": Fault("status", MANIFESTS, "PUT", times=2),
    "manifest 500 for good": Fault("status", MANIFESTS, "PUT", status=500, times=ALWAYS),
    "manifest body cut": Fault("cut request", MANIFESTS, "PUT", at=10),
    "existence 503": Fault("status", BLOBS, "HEAD", times=2),
    "out of order": Fault("delay", times=ALWAYS),
}
WRITTEN = WRITING.keys() - {"bodies cut", "manifest 500 for good"}


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with Cache.open(tmp_path_factory.mktemp("maker"), driver="native") as cache:
        yield cache


@pytest.fixture(scope="module")
def made(maker: Cache, tmp_path_factory: pytest.TempPathFactory) -> LocalImmutableRef:
    """Return a ref of two layers, of which one is more than a server's socket buffers take."""
    tree = tmp_path_factory.mktemp("faults") / "tree"
    (tree / "below").mkdir(parents=True)
    for number in range(24):
        (tree / f"below/file{number:02}").write_bytes(os.urandom(60_000))
    (tree / "small").write_text("small")
    (tree / "link").symlink_to("below/file00")
    base = maker.import_tree(tree)
    with maker.new(base) as work:
        with work.mounted() as path:
            (path / "above").write_bytes(os.urandom(20_000))
            (path / "small").unlink()
        return work.commit()


@pytest.fixture(scope="module")
def expected(made: LocalImmutableRef) -> dict[str, Seen]:
    return shown(made)


@pytest.fixture(scope="module", params=["registry", "worker"])
def proxy(request: pytest.FixtureRequest, maker: Cache, made: LocalImmutableRef) -> Iterator[FaultyProxy]:
    """Yield a proxy in front of a server that has the ref under the key."""
    if request.param == "worker":
        maker.put(KEY, made)
        with serving(StoreBackend(maker)) as url, faulty_proxy(url.removeprefix("http://")) as proxy:
            yield proxy
    else:
        host = request.getfixturevalue("registry")
        maker.put(KEY, made, push_to=f"oci://{host}/shipway")
        with faulty_proxy(host) as proxy:
            yield proxy


def shown(ref: LocalImmutableRef) -> dict[str, Seen]:
    with ref.mounted() as path:
        return describe(path)


def opened(root: Path, host: str, ca: Path | None = None) -> Cache:
    """Open a store that asks for keys at `host`, and is not patient."""
    settings = RegistrySettings(timeout="400ms", attempts=3, ca=ca)
    config = Config(root=root, driver="native", remotes=(f"oci://{host}/shipway",), registry={host: settings})
    return Cache.open(config=config)


def found(cache: Cache) -> RemoteImmutableRef:
    ref = cache.lookup(KEY)
    assert isinstance(ref, RemoteImmutableRef)
    return ref


def pulled(cache: Cache) -> dict[str, Seen]:
    with found(cache) as ref, ref.pull() as local:
        return shown(local)


@contextmanager
def typed(proxy: FaultyProxy, fault: Fault) -> Iterator[list[ShipwayError]]:
    """Let a fault happen in the block; yield the list that holds the error, if there is one."""
    errors: list[ShipwayError] = []
    proxy.set(replace(fault))
    try:
        yield errors
    except ShipwayError as error:
        errors.append(error)
    for line in map(str, errors):
        assert "\n" not in line
        assert proxy.host in line or "sha256:" in line
    assert proxy.struck > 0
    proxy.set()


def assert_sound(cache: Cache) -> None:
    assert cache.verify() == []
    assert os.listdir(cache.root / "ingest") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in READING if name != "no ranges"])
def test_a_pull_gives_the_right_tree_or_a_typed_error(
    proxy: FaultyProxy, name: str, expected: dict[str, Seen], tmp_path: Path
) -> None:
    with opened(tmp_path / "mine", proxy.host) as cache:
        with typed(proxy, READING[name]) as errors:
            assert pulled(cache) == expected
        assert not (errors and name in PASSING)
        assert errors or name not in FATAL
        assert_sound(cache)
        if errors:
            assert pulled(cache) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_BLOBS)
def test_an_extract_gives_the_right_files_or_a_typed_error(
    proxy: FaultyProxy, name: str, expected: dict[str, Seen], tmp_path: Path
) -> None:
    with opened(tmp_path / "mine", proxy.host) as cache:
        with typed(proxy, READING[name]) as errors, found(cache) as ref:
            ref.extract(tmp_path / "out", *SOME, parents=True)
        assert not (errors and name in PASSING)
        assert errors or name not in FATAL
        if not errors:
            out = describe(tmp_path / "out", dir_times=False)
            wanted = {path for path in expected if path in SOME}
            assert {path: out[path] for path in wanted} == {path: expected[path] for path in wanted}
            assert out.keys() - wanted == {"", "below"} & out.keys()
        assert_sound(cache)
        if errors:
            with found(cache) as ref:
                ref.extract(tmp_path / "again")
            assert describe(tmp_path / "again") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_BLOBS)
def test_a_pull_of_what_changed_gives_the_right_tree_or_a_typed_error(
    proxy: FaultyProxy, name: str, made: LocalImmutableRef, expected: dict[str, Seen], tmp_path: Path
) -> None:
    with opened(tmp_path / "mine", proxy.host) as cache:
        with made.mounted() as path:
            earlier = shutil.copytree(path, tmp_path / "earlier", symlinks=True)
        (earlier / "below/file05").write_bytes(b"changed since")
        with cache.import_tree(earlier) as old:
            old.push(f"oci://{proxy.host}/earlier:x")  # by which its contents become known
            proxy.set()
            with typed(proxy, READING[name]) as errors:
                assert pulled(cache) == expected
                assert any(one.range for one in proxy.passed)  # most of it was here
            assert not (errors and name in PASSING)
            assert errors or name not in FATAL
            assert_sound(cache)


@pytest.mark.slow
def test_a_stream_goes_on_at_another_remote_where_it_broke(
    registry: str, maker: Cache, made: LocalImmutableRef, expected: dict[str, Seen], tmp_path: Path
) -> None:
    for repository in ("shipway", "other"):
        maker.put(KEY, made, push_to=f"oci://{registry}/{repository}")
    with faulty_proxy(registry, [Fault("cut", BLOBS, "GET", at=100_000, times=ALWAYS)]) as broken:
        remotes = (f"oci://{broken.host}/shipway", f"oci://{registry}/other")
        settings = {broken.host: RegistrySettings(attempts=1)}
        with Cache.open(
            config=Config(root=tmp_path / "mine", driver="native", remotes=remotes, registry=settings)
        ) as cache:
            with found(cache) as ref, ref.pull() as local:
                assert shown(local) == expected
                assert ref.traffic.received < ref.size() + 20_000
            assert broken.struck > 0
            assert_sound(cache)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_push_is_there_whole_or_not_at_all(proxy: FaultyProxy, name: str, tmp_path: Path) -> None:
    with opened(tmp_path / "mine", proxy.host) as cache, cache.new() as work:
        with work.mounted() as path:
            (path / "new").write_bytes(os.urandom(300_000))
        with work.commit() as ref:
            reference = f"oci://{proxy.host}/pushed/{next(_numbers)}:x"
            with typed(proxy, WRITING[name]) as errors:
                ref.push(reference)
            assert bool(errors) == (name not in WRITTEN)
            with opened(tmp_path / "other", proxy.host) as other:
                if errors:
                    with pytest.raises(NotFound):
                        other.remote(reference)
                else:
                    with other.remote(reference) as remote, remote.pull() as local:
                        assert shown(local) == shown(ref)
                ref.push(reference)
                with other.remote(reference) as remote, remote.pull() as local:
                    assert shown(local) == shown(ref)
                assert_sound(other)
        assert_sound(cache)


def test_what_moves_as_a_proxy_counts_it(proxy: FaultyProxy, made: LocalImmutableRef, tmp_path: Path) -> None:
    reference = f"oci://{proxy.host}/counted:x"
    made.push(reference)
    proxy.set()
    made.push(reference)
    assert proxy.requests <= 2
    assert not [one for one in proxy.passed if "/blobs/" in one.path and one.sent]
    proxy.set()
    with opened(tmp_path / "mine", proxy.host) as cache, cache.remote(reference) as remote:
        remote.extract(tmp_path / "out", "above")
        assert proxy.requests <= 4
        assert proxy.received < 40_000


@pytest.mark.slow
def test_where_ranges_are_refused_each_blob_moves_once(proxy: FaultyProxy, tmp_path: Path) -> None:
    with opened(tmp_path / "mine", proxy.host) as cache, found(cache) as ref:
        proxy.set(Fault("refuse ranges", BLOBS, times=ALWAYS))
        for number in range(3):
            ref.extract(tmp_path / f"out{number}", f"below/file0{number}", "above")
            assert len(os.listdir(tmp_path / f"out{number}")) == 2
        asked = [one for one in proxy.passed if one.range is None and "/blobs/" in one.path]
        assert len({one.path for one in asked}) == len(asked) == 2
        assert sum(one.received for one in asked) == ref.size()
        assert len([one for one in proxy.passed if one.range is not None]) <= 2
        proxy.set()
    assert os.listdir(tmp_path / "mine/ingest") == []


@pytest.fixture(scope="module")
def over_tls(
    registry: str, maker: Cache, made: LocalImmutableRef, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FaultyProxy, Path]]:
    """Yield a proxy in front of a registry that has the ref under the key, and the authority that vouches for it."""
    maker.put(KEY, made, push_to=f"oci://{registry}/shipway")
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with faulty_proxy(registry, tls=authority.server("127.0.0.1")) as proxy:
        yield proxy, authority.ca


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "reset", "shorten", "stall"])
def test_tls_that_is_cut_off_is_no_end_of_a_file(
    over_tls: tuple[FaultyProxy, Path], expected: dict[str, Seen], tmp_path: Path, kind: Kind
) -> None:
    proxy, ca = over_tls
    with opened(tmp_path / "mine", proxy.host, ca=ca) as cache:
        with typed(proxy, Fault(kind, BLOBS, "GET", at=500, times=ALWAYS)) as errors:
            pulled(cache)
        assert errors
        assert_sound(cache)
        assert pulled(cache) == expected
