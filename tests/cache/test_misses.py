"""A blob that is gone from where it should be: the next place is asked; else it is a miss, until it is back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.caches import OpenCache, counts, snapshots_on_disk, write
from support.registry import blob_file, docker_registry
from support.trees import describe, free_port

from shipway import (
    Cache,
    Config,
    Corrupt,
    LocalImmutableRef,
    Missing,
    NotFound,
    RegistrySettings,
    RemoteImmutableRef,
    Unavailable,
)
from shipway.explanations import Way
from shipway.references import Reference
from shipway.remotes import open_remote
from shipway.server import serving
from shipway.server.store_backend import StoreBackend
from shipway.transfer.fetch import LARGE
from shipway.transfer.images import find_image


class Registry:
    """A registry whose blobs can be taken away."""

    def __init__(self, host: str, root: Path) -> None:
        self.host = host
        self.root = root
        self.number = 0

    def place(self) -> str:
        """Return a repository that nobody used."""
        self.number += 1
        return f"oci://{self.host}/misses/{self.number}"

    def blobs(self, reference: str) -> tuple[str, list[str]]:
        """Return the digests of an image's configuration and layers."""
        remote = open_remote(Reference.parse(reference))
        image = find_image(remote, Reference.parse(reference).target)
        remote.close()
        return image.manifest.config.digest, [layer.digest for layer in image.manifest.layers]

    def lose(self, digest: str) -> bytes:
        """Remove a blob as a broken disk would, and return what it was."""
        file = blob_file(self.root, digest)
        data = file.read_bytes()
        file.unlink()
        return data

    def spoil(self, digest: str) -> None:
        """Change bytes all over a blob as a broken disk would."""
        file = blob_file(self.root, digest)
        data = bytearray(file.read_bytes())
        for at in range(len(data) // 4, len(data), 97):
            data[at] ^= 0x55
        file.write_bytes(data)

    def lose_layer(self, reference: str, number: int = -1) -> str:
        """Remove a layer of an image; return its digest."""
        digest = self.blobs(reference)[1][number]
        self.lose(digest)
        return digest


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("here")
    with docker_registry(root) as host:
        yield Registry(host, root)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("there")
    with docker_registry(root) as host:
        yield Registry(host, root)


@dataclass(frozen=True)
class Both:
    """Two registries that have the same."""

    here: Registry
    there: Registry

    def push(self, ref: LocalImmutableRef, form: str = "zstd:chunked") -> tuple[str, str, str]:
        """Push a ref under the tag x of a repository of each; return these, and the digest of its top layer."""
        place, other = self.here.place(), self.there.place()
        for one in (place, other):
            ref.push(f"{one}:x", compression=form, force=True)
        return place, other, self.here.blobs(f"{place}:x")[1][-1]


@pytest.fixture
def both(here: Registry, there: Registry) -> Both:
    return Both(here, there)


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[OpenCache]:
    """Return a function that opens a store; what is tested here is the same for every driver."""
    with ExitStack() as stack:

        def open_it(remotes: Iterable[str] = ()) -> Cache:
            return stack.enter_context(Cache.open(tmp_path / "mine", driver="native", remotes=remotes))

        yield open_it


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[Cache]:
    """Yield the store that pushes."""
    with Cache.open(tmp_path / "maker", driver="native") as cache:
        yield cache


def tree(cache: Cache, text: str, parent: LocalImmutableRef | None = None) -> LocalImmutableRef:
    with cache.new(parent) as work:
        write(work, **{f"file-{text}": text * 1000})
        return work.commit()


def texts(ref: LocalImmutableRef) -> set[str]:
    with ref.mounted() as path:
        return {file.read_text()[:3] for file in path.iterdir()}


def found(cache: Cache, key: str) -> RemoteImmutableRef:
    ref = cache.lookup(key)
    assert isinstance(ref, RemoteImmutableRef)
    return ref


def assert_nothing_came(cache: Cache) -> None:
    assert counts(cache) == (0, 0)
    assert snapshots_on_disk(cache) == 0
    assert list((cache.root / "ingest").iterdir()) == []
    assert cache.verify() == []


@pytest.mark.parametrize("what", ["layer", "config"])
def test_a_blob_that_is_gone_is_a_miss_that_says_so(
    here: Registry, maker: Cache, open_cache: OpenCache, what: str
) -> None:
    place = here.place()
    maker.put("key", tree(maker, f"one {what}"), push_to=place)
    mine = open_cache(remotes=[place])
    with found(mine, "key") as ref:
        config, layers = here.blobs(ref.id)
        digest = config if what == "config" else layers[0]
        lost = here.lose(digest)
        with pytest.raises(Missing, match=f"{place}: .*{digest}.* is gone; push it again"):
            ref.pull()
    assert_nothing_came(mine)
    assert mine.lookup("key") is None
    assert [digest in one.reason for one in mine.explain("key").asked] == [False, True]
    with Cache.open(mine.root, remotes=[place]) as another:
        assert another.lookup("key") is None
    blob_file(here.root, digest).write_bytes(lost)
    with found(mine, "key") as ref, ref.pull() as local:
        assert texts(local) == {f"one {what}"[:3]}


def test_extracting_what_is_gone_is_a_miss_too(
    here: Registry, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    place = here.place()
    maker.put("key", tree(maker, "ext"), push_to=place)
    mine = open_cache(remotes=[place])
    with found(mine, "key") as ref:
        here.lose_layer(ref.id)
        with pytest.raises(Missing):
            ref.extract(tmp_path / "out", "file-ext")
        with pytest.raises(Missing):
            ref.checksum("file-ext")
    assert not (tmp_path / "out").exists()
    assert mine.lookup("key") is None


def test_a_blob_that_is_elsewhere_is_taken_from_there(
    here: Registry, there: Registry, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    place, other = here.place(), there.place()
    base = tree(maker, "below")
    both = tree(maker, "above", base)
    maker.put("key", both, push_to=place)
    both.push(f"{other}:anything")
    mine = open_cache(remotes=[place, other])
    with found(mine, "key") as ref:
        here.lose_layer(ref.id, 0)
        ref.extract(tmp_path / "out")
        assert len(list((tmp_path / "out").iterdir())) == 2
        with ref.pull() as local:
            assert texts(local) == {"bel", "abo"}
    with found(mine, "key") as ref:  # it is no miss
        pass


def test_the_next_remote_that_knows_the_key_is_asked(
    here: Registry, there: Registry, maker: Cache, open_cache: OpenCache
) -> None:
    place, other = here.place(), there.place()
    maker.put("key", tree(maker, "first"), push_to=place)
    maker.put("key", tree(maker, "second"), push_to=other)
    mine = open_cache(remotes=[place, other])
    with found(mine, "key") as ref:
        here.lose_layer(ref.id)
        with pytest.raises(Missing, match=f"not at {other} either"):
            ref.pull()
    with found(mine, "key") as ref, ref.pull() as local:
        assert texts(local) == {"sec"}
    with mine.remote(f"{place}@{here_digest(place, mine)}") as ref:  # by name it is still there
        assert ref.size() > 0


def here_digest(place: str, cache: Cache) -> str:
    (row,) = cache.store.database.read("SELECT image FROM absences WHERE place = ?", place)
    return str(row[0])


def test_a_place_that_cannot_be_asked_makes_it_no_miss(here: Registry, maker: Cache, open_cache: OpenCache) -> None:
    place = here.place()
    maker.put("key", tree(maker, "unclear"), push_to=place)
    mine = open_cache(remotes=[place, f"oci://127.0.0.1:{free_port()}/x"])
    with found(mine, "key") as ref:
        here.lose_layer(ref.id)
        with pytest.raises(Unavailable, match="refused"):
            ref.pull()
    with found(mine, "key"):
        pass


def test_a_manifest_that_is_gone_is_a_miss(here: Registry, maker: Cache, open_cache: OpenCache) -> None:
    place = here.place()
    maker.put("key", tree(maker, "manifest"), push_to=place)
    mine = open_cache(remotes=[place])
    with found(mine, "key") as ref:
        here.lose(ref.id.partition("@")[2])
    assert mine.lookup("key") is None


def test_who_found_it_gone_pushes_what_is_missing(
    here: Registry, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    place = here.place()
    base = tree(maker, "below")
    maker.put("key", tree(maker, "above", base), push_to=place)
    mine = open_cache(remotes=[place])
    with found(mine, "key") as remote:
        digest = here.blobs(remote.id)[1][0]
        lost = here.lose(digest)
        with pytest.raises(Missing):
            remote.extract(tmp_path / "out", "file-below", "file-above")
    blob_file(here.root, digest).write_bytes(lost)
    with mine.remote(remote.id) as again, again.pull() as local:
        here.lose(digest)
        assert mine.lookup("key") is None
        assert local.push(f"{place}:other").layers_moved == 1
    with found(mine, "key") as remote:
        remote.extract(tmp_path / "out")
    assert (tmp_path / "out/file-below").exists()


def test_who_did_not_find_it_gone_heals_it_by_force(here: Registry, maker: Cache, open_cache: OpenCache) -> None:
    place = here.place()
    ref = tree(maker, "above", tree(maker, "below"))
    pushed = ref.push(f"{place}:x")
    config, layers = here.blobs(pushed.reference)
    for digest in (config, layers[0]):
        here.lose(digest)
    again = ref.push(f"{place}:x")
    assert (again.layers_moved, again.traffic.requests) == (0, 1)
    healed = ref.push(f"{place}:x", force=True)
    assert (healed.digest, healed.layers_moved) == (pushed.digest, 1)
    assert ref.push(f"{place}:x", force=True).traffic.sent < 2_000  # the manifest
    with open_cache().remote(f"{place}:x") as remote, remote.pull() as local:
        assert texts(local) == {"bel", "abo"}


@pytest.mark.slow
def test_the_program_says_it_is_a_miss(here: Registry, maker: Cache, tmp_path: Path) -> None:
    place = here.place()
    maker.put("key", tree(maker, "program"), push_to=place)
    with Cache.open(tmp_path / "mine", driver="native", remotes=[place]) as mine, found(mine, "key") as ref:
        here.lose_layer(ref.id)
    command = [sys.executable, "-m", "shipway", "--root", str(tmp_path / "mine"), "--remote", place]
    for said in ("is gone", "no such key"):
        done = subprocess.run([*command, "extract", "key:key", "out"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert said in done.stderr


# What is there, and wrong


FORMS = ["zstd:chunked", "gzip", "estargz"]


@pytest.mark.parametrize("form", FORMS)
def test_a_blob_that_is_wrong_is_taken_from_elsewhere(
    both: Both, maker: Cache, open_cache: OpenCache, tmp_path: Path, form: str
) -> None:
    place, other, layer = both.push(tree(maker, f"wrong {form}"), form)
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        both.here.spoil(layer)
        both.here.spoil(both.here.blobs(f"{place}:x")[0])
        remote.extract(tmp_path / "out")
        assert [file.read_text()[:3] for file in (tmp_path / "out").iterdir()] == ["wro"]
        with remote.pull() as local:
            assert texts(local) == {"wro"}
    assert mine.verify() == []


@pytest.mark.parametrize("form", FORMS)
def test_a_blob_that_is_wrong_everywhere_is_an_error_that_names_all_places(
    both: Both, maker: Cache, open_cache: OpenCache, tmp_path: Path, form: str
) -> None:
    place, other, layer = both.push(tree(maker, f"both {form}"), form)
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        both.here.spoil(layer)
        both.there.spoil(layer)
        for failing in (remote.pull, lambda: remote.extract(tmp_path / "out")):
            with pytest.raises(Corrupt) as caught:
                failing()
            assert place in str(caught.value)
            assert other in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert_nothing_came(mine)


def test_a_blob_that_is_wrong_at_one_place_and_gone_from_the_other_is_an_error_that_says_so(
    here: Registry, there: Registry, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    place, other = here.place(), there.place()
    pushed = tree(maker, "one and none").push(f"{place}:x")
    tree(maker, "another").push(f"{other}:x")
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        here.spoil(here.blobs(pushed.reference)[1][0])
        for failing in (remote.pull, lambda: remote.extract(tmp_path / "out")):
            with pytest.raises(Corrupt, match=f"it came from {place}, it is not at {other}$"):
                failing()
    assert_nothing_came(mine)


def test_of_a_large_blob_over_several_connections_too(
    both: Both, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/noise").write_bytes(os.urandom(LARGE + 1))
    ref = maker.import_tree(tmp_path / "tree")
    place, other, layer = both.push(ref)
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        both.here.spoil(layer)
        with remote.pull() as local:
            assert local.checksum("noise") == ref.checksum("noise")
    assert mine.verify() == []


@pytest.mark.parametrize("at", [0.3, 0.9])
def test_where_ranges_are_wrong_only_these_are_taken_from_elsewhere(
    both: Both, maker: Cache, open_cache: OpenCache, tmp_path: Path, at: float
) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / f"tree/file{number:02}").write_bytes(os.urandom(100_000))
    place, other, layer = both.push(maker.import_tree(tmp_path / "tree"))
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        file = blob_file(both.here.root, layer)
        data = bytearray(file.read_bytes())
        data[int(len(data) * at)] ^= 1
        file.write_bytes(data)
        done = remote.extract(tmp_path / "out")
        assert done.traffic.received < 1.05 * len(data) + (1 - at) * len(data)
    assert describe(tmp_path / "out", dir_times=False) == describe(tmp_path / "tree", dir_times=False)


def test_a_layer_is_put_together_of_what_the_next_place_has_if_that_was_wrong(
    both: Both, maker: Cache, open_cache: OpenCache, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(40):
        (tmp_path / f"tree/file{number:02}").write_bytes(os.urandom(100_000))
    place, other, _ = both.push(maker.import_tree(tmp_path / "tree"))
    mine = open_cache(remotes=[other])
    with mine.remote(f"{place}:x") as remote:
        remote.pull().release()
    (tmp_path / "tree/file30").write_bytes(os.urandom(200_000))
    place, new, layer = both.push(maker.import_tree(tmp_path / "tree"))
    mine.close()
    mine = open_cache(remotes=[new])
    with mine.remote(f"{place}:x") as remote:
        both.here.spoil(layer)
        with remote.pull() as local, local.mounted() as path:
            assert describe(path, dir_times=False) == describe(tmp_path / "tree", dir_times=False)
            pulled = mine.explain_ref(local.id).pulled
            assert pulled is not None
            assert [one.way for one in pulled.layers] == [Way.ASSEMBLED]
        assert remote.traffic.received < 1_000_000
    assert mine.verify() == []


@pytest.mark.parametrize("form", [None, "gzip"])
def test_what_is_copied_from_one_place_to_another_is_right_too(
    both: Both, maker: Cache, open_cache: OpenCache, form: str | None
) -> None:
    place, other, layer = both.push(tree(maker, f"copied {form}"))
    mine, target = open_cache(remotes=[other]), both.there.place()
    with mine.remote(f"{place}:x") as remote:
        both.here.spoil(layer)
        mine.push(remote, f"{target}:y", compression=form, force=form is not None)
    with mine.remote(f"{target}:y") as remote, remote.pull() as local:
        assert texts(local) == {"cop"}


# A worker's own server


def test_a_worker_that_lost_a_blob_makes_it_again(maker: Cache, open_cache: OpenCache) -> None:
    with serving(StoreBackend(maker)) as url:
        reference = url.replace("http://", "oci://")
        ref = tree(maker, "worker")
        maker.put("key", ref)
        mine = open_cache(remotes=[reference])
        with found(mine, "key") as remote:
            _, (layer,) = Registry("", Path()).blobs(remote.id)
            maker.store.blobs.path(layer).unlink()
            with pytest.raises(Missing, match=layer):
                remote.pull()
        with found(mine, "key") as remote, remote.pull() as local:
            assert texts(local) == {"wor"}
    assert maker.verify() == []


def test_a_worker_that_cannot_make_it_again_misses(maker: Cache, open_cache: OpenCache) -> None:
    with serving(StoreBackend(maker)) as url:
        reference = url.replace("http://", "oci://")
        ref = tree(maker, "pruned")
        maker.put("key", ref)
        mine = open_cache(remotes=[reference])
        with found(mine, "key") as remote:
            ref.release()
            list(maker.prune())
            with pytest.raises((Missing, NotFound)):
                remote.pull()
        assert mine.lookup("key") is None


# Mirrors


def test_what_is_wrong_at_a_mirror_is_taken_from_the_next_and_then_from_the_registry(
    here: Registry, there: Registry, maker: Cache, tmp_path: Path
) -> None:
    place = here.place()
    repository = place.partition(here.host)[2].strip("/")
    ref = tree(maker, "mirrors")
    pushed = ref.push(f"{place}:x")
    for prefix in ("first", "second"):
        ref.push(f"oci://{there.host}/{prefix}/{repository}:x")
    there.spoil(here.blobs(pushed.reference)[1][0])  # for both mirrors
    with (
        mirrored(tmp_path / "mine", place, f"{there.host}/first", f"{there.host}/second") as mine,
        mine.remote(f"{place}:x") as remote,
    ):
        remote.extract(tmp_path / "out")
        with remote.pull() as local:
            assert texts(local) == {"mir"}
        assert mine.verify() == []
    assert len(list((tmp_path / "out").iterdir())) == 1


def mirrored(root: Path, place: str, *mirrors: str, remotes: tuple[str, ...] = ()) -> Cache:
    host = place.removeprefix("oci://").partition("/")[0]
    settings = RegistrySettings(mirrors=mirrors)
    return Cache.open(config=Config(root=root, driver="native", remotes=remotes, registry={host: settings}))


def test_mirrors_are_read_from_in_order_and_not_written_to(
    here: Registry, there: Registry, maker: Cache, tmp_path: Path
) -> None:
    place = here.place()
    repository = place.partition(here.host)[2].strip("/")
    ref = tree(maker, "mirrored")
    ref.push(f"{place}:x")
    ref.push(f"oci://{there.host}/copies/of/{repository}:x")
    dead = f"127.0.0.1:{free_port()}"
    empty = f"{there.host}/nothing/here"
    with mirrored(tmp_path / "mine", place, dead, empty, f"{there.host}/copies/of") as mine:
        with mine.remote(f"{place}:x") as remote:
            here.lose_layer(remote.id)
            with remote.pull() as local:
                assert texts(local) == {"mir"}
                (size,) = [record.size for record in mine.disk_usage()]
                assert size > 0
                pushed = local.push(f"{place}:y")
                assert pushed.layers_moved == 1  # to the registry itself, which had lost it
        with pytest.raises(NotFound):
            mine.remote(f"oci://{there.host}/copies/of/{repository}:y")


def test_what_no_mirror_has_is_taken_from_the_registry(
    here: Registry, there: Registry, maker: Cache, tmp_path: Path
) -> None:
    place = here.place()
    tree(maker, "origin").push(f"{place}:x")
    dead = f"127.0.0.1:{free_port()}"
    with mirrored(tmp_path / "mine", place, dead, f"{there.host}/nothing") as mine:
        with mine.remote(f"{place}:x") as remote, remote.pull() as local:
            assert texts(local) == {"ori"}
            with pytest.raises(NotFound):
                mine.remote(f"{place}:absent")
        with mine.remote(f"{place}:x") as remote, ExitStack() as stack:
            here.lose_layer(remote.id)
            list(mine.prune())
            stack.enter_context(pytest.raises(Missing, match=place))
            remote.extract(tmp_path / "out")


def test_a_push_asks_the_registry_itself_what_is_there(
    here: Registry, there: Registry, maker: Cache, tmp_path: Path
) -> None:
    place = here.place()
    repository = place.partition(here.host)[2].strip("/")
    tree(maker, "pushed").push(f"oci://{there.host}/copies/{repository}:x")
    with (
        mirrored(tmp_path / "mine", place, f"{there.host}/copies") as mine,
        mine.remote(f"{place}:x") as remote,  # the mirror alone has it
        remote.pull() as local,
    ):
        assert local.push(f"{place}:x").layers_moved == 1
        assert mine.push(remote, f"{place}:y").layers_moved == 0
    here.blobs(f"{place}:y")
