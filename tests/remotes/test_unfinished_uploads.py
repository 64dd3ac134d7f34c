"""Uploads that an earlier process began, at registries that lie about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.contents import blob, opening, random_bytes
from support.misbehaving import Exchange, Server, misbehaving

from shipway.errors import Unavailable
from shipway.local.database import Database
from shipway.local.leases import Leases
from shipway.local.uploads import Uploads
from shipway.references import RegistryReference
from shipway.remotes.registry import Credentials, Limits, RegistryRemote

CHUNK = 1 << 20
DATA = random_bytes(3 * CHUNK)
BLOB = blob(DATA)
FAST = Limits(connect=5, read=1.0, attempts=3, wait=0.01, longest_wait=2.0)
ALICE = Credentials("alice", "pa55word")


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    database, leases = Database(tmp_path / "uploads.db"), Leases(tmp_path)
    yield Uploads(database, leases)
    leases.close()
    database.close()


def begun(uploads: Uploads, server: Server, location: str) -> RegistryRemote:
    """Return a remote at a server where somebody is known to have begun to upload BLOB."""
    place = RegistryReference(server.host, "some/where", insecure=True)
    remote = RegistryRemote(place, credentials=ALICE, limits=FAST, chunk=CHUNK, unfinished=uploads)
    uploads.note(remote.name, BLOB.digest, location)
    uploads.leave(remote.name, BLOB.digest)
    return remote


@pytest.mark.parametrize("at", [len(DATA) + 1, 1 << 40])
def test_more_of_a_blob_than_there_is_is_not_gone_on_with(uploads: Uploads, at: int) -> None:
    stored = bytearray()

    def behave(exchange: Exchange) -> None:
        stored.extend(exchange.body())
        status = {"POST": 202, "PATCH": 202, "GET": 204, "PUT": 201}[exchange.command]
        exchange.answer(status, location="/upload/new", range=f"0-{at - 1}")

    with misbehaving(behave) as server, closing(begun(uploads, server, "/upload/old")) as again:
        again.put_blob(BLOB, opening(DATA))
        assert [one.method for one in server.asked][:3] == ["GET", "POST", "PATCH"]
    assert bytes(stored) == DATA


def test_what_turns_out_to_be_the_beginning_of_another_blob_is_called_off_and_it_begins_anew(uploads: Uploads) -> None:
    stored = bytearray()

    def behave(exchange: Exchange) -> None:
        body = exchange.body()
        status = {"POST": 202, "PATCH": 202, "GET": 204, "PUT": 201, "DELETE": 204}[exchange.command]
        if exchange.path.startswith("/upload/old"):
            exchange.answer(400 if exchange.command == "PUT" else status, location="/upload/old", range="0-999")
        else:
            stored.extend(body)
            exchange.answer(status, location="/upload/new")

    with misbehaving(behave) as server, closing(begun(uploads, server, "/upload/old")) as again:
        again.put_blob(BLOB, opening(DATA))
        assert server.paths("DELETE") == ["/upload/old"]
    assert bytes(stored) == DATA


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416])
def test_an_upload_that_the_registry_will_not_speak_of_begins_anew(uploads: Uploads, status: int) -> None:
    stored = bytearray()

    def behave(exchange: Exchange) -> None:
        stored.extend(exchange.body())
        if exchange.path.startswith("/upload/old"):
            exchange.answer(status)
        else:
            exchange.answer({"POST": 202, "PATCH": 202, "PUT": 201}[exchange.command], location="/upload/new")

    with misbehaving(behave) as server, closing(begun(uploads, server, "/upload/old")) as again:
        again.put_blob(BLOB, opening(DATA))
        assert uploads.take(again.name, BLOB.digest) is None
    assert bytes(stored) == DATA


def test_an_upload_that_others_fail_at_begins_anew_and_no_error_tells_its_address(uploads: Uploads) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.body()
        exchange.answer(503, location="/upload/SECRET")

    with misbehaving(behave) as server, closing(begun(uploads, server, "/upload/SECRET")) as again:
        with pytest.raises(Unavailable) as failed:
            again.put_blob(BLOB, opening(DATA))
        assert server.paths("POST")
    assert "SECRET" not in str(failed.value)
    assert uploads.take(again.name, BLOB.digest) == "/upload/SECRET"


def test_an_upload_that_goes_on_at_another_host_gets_no_credentials(uploads: Uploads) -> None:
    stored = bytearray(DATA[: 1 << 20])

    def store(exchange: Exchange) -> None:
        stored.extend(exchange.body())
        status = {"PATCH": 202, "GET": 204, "PUT": 201}[exchange.command]
        exchange.answer(status, location="/upload", range=f"0-{len(stored) - 1}")

    with misbehaving(store, name="localhost") as other, misbehaving(lambda _: None) as server:
        with closing(begun(uploads, server, f"http://{other.host}/upload")) as again:
            again.put_blob(BLOB, opening(DATA))
        assert {one.headers["authorization"] for one in other.asked} == {None}
        assert server.asked == []
    assert bytes(stored) == DATA
