"""A push whose process died goes on, in another process, where the registry says it is."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import dying_push
from support.dying_push import CHUNK, push_in_chunks

from shipway import Cache, Progress
from shipway.local.uploads import MOST
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

SIZE = 6 * CHUNK + 4321
SMALL = CHUNK // 2
"""More than the manifest, the configuration and what packing adds."""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[str]:
    """Yield the `host:port` of our own server."""
    with Cache.open(tmp_path / "peer", driver="native") as peer, serving(StoreBackend(peer)) as url:
        yield url.removeprefix("http://")


@pytest.fixture(params=["registry", "peer"])
def host(request: pytest.FixtureRequest) -> str:
    """Return the `host:port` of a registry, Debian's or ours."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Cache]:
    with Cache.open(tmp_path / "store", driver="native") as cache:
        yield cache


@pytest.fixture
def record(store: Cache, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(SIZE))
    with store.import_tree(tmp_path / "tree") as ref:
        yield ref.id


def die_pushing(cache: Cache, record: str, reference: str, what: str, count: int) -> None:
    command = [sys.executable, "-m", dying_push.__name__, str(cache.root), record, reference, what, str(count)]
    tests = Path(dying_push.__file__).parent.parent
    assert subprocess.run(command, cwd=tests, check=False).returncode == -signal.SIGKILL


def check_pushed(tmp_path: Path, reference: str) -> None:
    with Cache.open(tmp_path / "other", driver="native") as other, other.remote(reference) as remote:
        remote.extract(tmp_path / "out", "/file")
    assert (tmp_path / "out/file").read_bytes() == (tmp_path / "tree/file").read_bytes()


def locations(cache: Cache) -> list[str]:
    with sqlite3.connect(cache.root / "shipway.db") as db:
        return [location for (location,) in db.execute("SELECT location FROM uploads")]


def change_locations(cache: Cache, location: str) -> None:
    with sqlite3.connect(cache.root / "shipway.db") as db:
        db.execute("UPDATE uploads SET location = ?", (location,))


def test_a_push_that_was_killed_goes_on_after_the_chunks_that_were_taken(
    host: str, repository: str, store: Cache, record: str, tmp_path: Path
) -> None:
    place = f"oci://{host}/{repository}:tag"
    die_pushing(store, record, place, "chunks", 4)
    assert len(locations(store)) == 1
    heard: list[int] = []
    sent = push_in_chunks(
        store, record, place, progress=lambda one: heard.append(one.done) if one.task == "push" else None
    )
    assert SIZE - 4 * CHUNK < sent < SIZE - 4 * CHUNK + SMALL
    assert 4 * CHUNK in heard
    assert locations(store) == []
    check_pushed(tmp_path, place)


def test_our_own_server_keeps_the_beginning_of_a_chunk_too(
    peer: str, repository: str, store: Cache, record: str, tmp_path: Path
) -> None:
    place = f"oci://{peer}/{repository}:tag"
    die_pushing(store, record, place, "bytes", 2 * CHUNK + 3 * CHUNK // 4)
    assert push_in_chunks(store, record, place) < SIZE - 2 * CHUNK
    check_pushed(tmp_path, place)


def test_where_the_registry_does_not_know_how_far_it_came_it_begins_anew(
    registry: str, repository: str, store: Cache, record: str, tmp_path: Path
) -> None:
    place = f"oci://{registry}/{repository}:tag"
    die_pushing(store, record, place, "bytes", 2 * CHUNK + CHUNK // 2)  # of which its addresses say nothing
    assert SIZE < push_in_chunks(store, record, place) < SIZE + SMALL
    check_pushed(tmp_path, place)


@pytest.mark.parametrize("location", ["/v2/x/blobs/uploads/gone", "https://[", "ftp://elsewhere/", ""])
def test_an_upload_that_is_not_there_begins_anew(
    peer: str, store: Cache, record: str, tmp_path: Path, location: str
) -> None:
    place = f"oci://{peer}/some/where:tag"
    die_pushing(store, record, place, "chunks", 2)
    change_locations(store, location)
    assert SIZE < push_in_chunks(store, record, place) < SIZE + SMALL
    assert locations(store) == []
    check_pushed(tmp_path, place)


def test_a_push_that_is_interrupted_goes_on_in_the_same_process(
    peer: str, repository: str, store: Cache, record: str, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.task == "push" and progress.done > 3 * CHUNK:
            raise KeyboardInterrupt

    place = f"oci://{peer}/{repository}:tag"
    with pytest.raises(KeyboardInterrupt):
        push_in_chunks(store, record, place, progress=interrupt)
    assert push_in_chunks(store, record, place) < SIZE - 3 * CHUNK + SMALL
    check_pushed(tmp_path, place)


def test_an_upload_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    with (
        Cache.open(tmp_path / "store", driver="native") as one,
        Cache.open(tmp_path / "store") as other,
    ):
        mine, theirs = one._store.uploads, other._store.uploads
        mine.note("oci://host/x", "sha256:1", "https://host/1")
        assert (mine.take("oci://host/x", "sha256:1"), theirs.take("oci://host/x", "sha256:1")) == (None, None)
        mine.leave("oci://host/x", "sha256:1")
        assert theirs.take("oci://host/x", "sha256:1") == "https://host/1"
        assert mine.take("oci://host/x", "sha256:1") is None


def test_uploads_are_remembered_in_bounds(store: Cache) -> None:
    uploads = store._store.uploads
    for number in range(MOST + 5):
        uploads.note("oci://host/x", f"sha256:{number}", "https://host/1")
    uploads.note("oci://host/x", "sha256:long", "https://host/" + 10_000 * "x")
    assert len(locations(store)) == MOST
