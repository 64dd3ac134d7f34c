"""Blobs over HTTP: reading by ranges, and every way to upload."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from support.contents import random_bytes
from support.directory_backend import DirectoryBackend
from support.http import Client

from shipway import oci
from shipway.server import serving, uploads

DATA = random_bytes(200_000)
DIGEST = oci.sha256(DATA)
UPLOADS = "/v2/a/b/blobs/uploads/"


def finish(location: str, digest: str = DIGEST) -> str:
    return f"{location}?digest={quote(digest)}"


def begin(client: Client) -> str:
    answer = client.ask("POST", UPLOADS)
    assert answer.status == 202
    assert answer.headers["range"] == "0-0"
    return answer.headers["location"]


# Reading


def test_a_blob_is_answered_whole(client: Client) -> None:
    path = f"/v2/a/b/blobs/{client.put_blob(DATA)}"
    got, head = client.ask("GET", path), client.ask("HEAD", path)
    assert (got.status, got.body) == (200, DATA)
    assert (head.status, head.body) == (200, b"")
    for answer in (got, head):
        assert answer.headers["docker-content-digest"] == DIGEST
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=199999-", 199_999, 199_999),
        ("bytes=0-", 0, 199_999),
        ("bytes=-1", 199_999, 199_999),
        ("bytes=-500000", 0, 199_999),
        ("bytes=100-500000", 100, 199_999),
    ],
)
def test_a_range_is_answered_with_itself(client: Client, asked: str, first: int, last: int) -> None:
    got = client.ask("GET", f"/v2/a/b/blobs/{client.put_blob(DATA)}", range=asked)
    assert (got.status, got.body) == (206, DATA[first : last + 1])
    assert got.headers["content-range"] == f"bytes {first}-{last}/{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=200000-", "bytes=200000-200001"])
def test_a_range_after_the_end_cannot_be_satisfied(client: Client, asked: str) -> None:
    got = client.ask("GET", f"/v2/a/b/blobs/{client.put_blob(DATA)}", range=asked)
    assert got.status == 416
    assert got.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=x-y", "lines=1-2", "bytes", "bytes=-", "bytes=1-2-3", "bytes=9-5"]
)
def test_any_other_range_is_answered_with_the_whole(client: Client, asked: str) -> None:
    path = f"/v2/a/b/blobs/{client.put_blob(DATA)}"
    got = client.ask("GET", path, range=asked)
    assert (got.status, got.body) == (200, DATA)


def test_blobs_are_shared_by_all_repositories(client: Client) -> None:
    digest = client.put_blob(DATA, "one")
    assert client.ask("GET", f"/v2/the/other/blobs/{digest}").body == DATA


def test_a_missing_blob_is_unknown(client: Client) -> None:
    assert client.ask("GET", f"/v2/a/b/blobs/{DIGEST}").refusal == (404, "BLOB_UNKNOWN")
    assert client.ask("HEAD", f"/v2/a/b/blobs/{DIGEST}").status == 404


@pytest.mark.parametrize("digest", ["sha256:12", "sha512:" + "0" * 128, "latest", "..%2F..%2Fetc%2Fpasswd", "%00"])
def test_what_is_no_digest_is_refused(client: Client, digest: str) -> None:
    assert client.ask("GET", f"/v2/a/b/blobs/{digest}").refusal == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("name", ["A", "a//b", "../a", "a/..", "-a", "a_", "x" * 256, "a%20b", "%2e%2e/%2e%2e"])
def test_what_is_no_repository_is_refused(client: Client, name: str) -> None:
    answer = client.ask("GET", f"/v2/{name}/blobs/{DIGEST}")
    assert answer.refusal in ((400, "NAME_INVALID"), (404, "UNSUPPORTED"))
    assert client.ask("POST", f"/v2/{name}/blobs/uploads/").status in (400, 404)


# Uploading


def test_a_blob_may_come_with_its_first_request(client: Client, backend: DirectoryBackend) -> None:
    answer = client.ask("POST", finish(UPLOADS), DATA)
    assert answer.status == 201
    assert answer.headers["docker-content-digest"] == DIGEST
    assert client.ask("GET", answer.headers["location"]).body == DATA
    assert os.listdir(backend.ingesting) == []


def test_a_blob_may_come_with_the_second(client: Client) -> None:
    answer = client.ask("PUT", finish(begin(client)), DATA)
    assert answer.status == 201
    assert client.ask("GET", answer.headers["location"]).body == DATA


def test_a_blob_may_come_in_chunks(client: Client) -> None:
    location = begin(client)
    for start in range(0, 150_000, 50_000):
        chunk = DATA[start : start + 50_000]
        answer = client.ask("PATCH", location, chunk, content_range=f"{start}-{start + 49_999}")
        assert (answer.status, answer.headers["range"]) == (202, f"0-{start + 49_999}")
        location = answer.headers["location"]
    answer = client.ask("PUT", finish(location), DATA[150_000:], content_range="150000-199999")
    assert answer.status == 201
    assert client.ask("GET", answer.headers["location"]).body == DATA


def test_a_chunk_may_come_without_saying_where_it_belongs(client: Client) -> None:
    location = begin(client)
    assert client.ask("PATCH", location, DATA[:10]).status == 202
    assert client.ask("PATCH", location, DATA[10:], content_type="application/octet-stream").status == 202
    assert client.ask("PUT", finish(location)).status == 201


def test_an_empty_blob_is_a_blob(client: Client) -> None:
    digest = oci.sha256(b"")
    assert client.ask("PUT", finish(begin(client), digest)).status == 201
    assert client.ask("GET", f"/v2/a/b/blobs/{digest}").body == b""


@pytest.mark.parametrize("stated", ["5-14", "0-9", "11-20"])
def test_a_chunk_that_does_not_follow_is_refused_and_told_where_to_go_on(client: Client, stated: str) -> None:
    location = begin(client)
    client.ask("PATCH", location, DATA[:10])
    answer = client.ask("PATCH", location, DATA[10:20], content_range=stated)
    assert answer.refusal == (416, "BLOB_UPLOAD_INVALID")
    assert answer.headers["range"] == "0-9"
    assert client.ask("PUT", finish(answer.headers["location"]), DATA[10:]).status == 201


@pytest.mark.parametrize(
    ("stated", "code"), [("0-9", "SIZE_INVALID"), ("9-0", "BLOB_UPLOAD_INVALID"), ("x", "BLOB_UPLOAD_INVALID")]
)
def test_a_chunk_of_another_size_than_stated_is_refused(client: Client, stated: str, code: str) -> None:
    location = begin(client)
    assert client.ask("PATCH", location, DATA[:11], content_range=stated).refusal == (400, code)
    assert client.ask("PUT", finish(location), DATA).status == 201


def test_an_upload_tells_how_far_it_is(client: Client) -> None:
    location = begin(client)
    client.ask("PATCH", location, DATA[:1000])
    answer = client.ask("GET", location)
    assert (answer.status, answer.headers["range"], answer.headers["location"]) == (204, "0-999", location)


def test_an_interrupted_chunk_counts_as_far_as_it_came(client: Client) -> None:
    location = begin(client)
    with client.connect() as connection:
        head = f"PATCH {location} HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        connection.sendall(head.encode() + DATA[:70_000])
    answer = client.ask("GET", location)
    while answer.headers["range"] != "0-69999":  # the server may not have heard yet
        time.sleep(0.01)
        answer = client.ask("GET", location)
    answer = client.ask("PATCH", location, DATA[70_000:], content_range=f"70000-{len(DATA) - 1}")
    assert answer.status == 202
    assert client.ask("PUT", finish(location)).status == 201
    assert client.ask("GET", f"/v2/a/b/blobs/{DIGEST}").body == DATA


def test_a_wrong_digest_is_refused_and_nothing_is_kept(client: Client, backend: DirectoryBackend) -> None:
    wrong, location = oci.sha256(b"other"), begin(client)
    assert client.ask("PUT", finish(location, wrong), DATA).refusal == (400, "DIGEST_INVALID")
    assert client.ask("POST", finish(UPLOADS, wrong), DATA).refusal == (400, "DIGEST_INVALID")
    assert client.ask("GET", location).refusal == (404, "BLOB_UPLOAD_UNKNOWN")
    assert os.listdir(backend.ingesting) == []
    assert os.listdir(backend.blobs) == []


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:12", "?digest=md5:1"])
def test_an_upload_ends_with_a_digest(client: Client, query: str) -> None:
    location = begin(client)
    assert client.ask("PUT", location + query, DATA).refusal == (400, "DIGEST_INVALID")
    assert client.ask("PUT", finish(location), DATA).status == 201


def test_an_upload_may_be_called_off(client: Client, backend: DirectoryBackend) -> None:
    location = begin(client)
    client.ask("PATCH", location, DATA)
    assert len(os.listdir(backend.ingesting)) == 1
    assert client.ask("DELETE", location).status == 204
    assert os.listdir(backend.ingesting) == []
    for method in ("GET", "PATCH", "DELETE"):
        assert client.ask(method, location).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    location = begin(client).replace("/a/b/", "/another/")
    assert client.ask("GET", location).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_blob_that_is_here_may_be_mounted(client: Client) -> None:
    client.put_blob(DATA, "one")
    answer = client.ask("POST", f"/v2/two/blobs/uploads/?mount={quote(DIGEST)}&from=one")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/two/blobs/{DIGEST}")


def test_a_mount_of_what_is_not_here_begins_an_upload(client: Client) -> None:
    answer = client.ask("POST", f"/v2/two/blobs/uploads/?mount={quote(DIGEST)}&from=one")
    assert answer.status == 202
    assert client.ask("PUT", finish(answer.headers["location"]), DATA).status == 201


def test_blobs_are_not_deleted_one_by_one(client: Client) -> None:
    digest = client.put_blob(DATA)
    assert client.ask("DELETE", f"/v2/a/b/blobs/{digest}").refusal == (405, "UNSUPPORTED")


def test_uploads_in_progress_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 2)
    first = begin(client)
    begin(client)
    answer = client.ask("POST", UPLOADS)
    assert answer.refusal == (429, "TOOMANYREQUESTS")
    assert int(answer.headers["retry-after"]) > 0
    client.ask("DELETE", first)
    begin(client)


def test_a_stalled_body_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "STALLED", 0.1)
    location = begin(client)
    with client.connect() as connection:
        head = f"PATCH {location} HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        assert b" 408 " in connection.recv(4096)
    assert client.ask("GET", location).headers["range"] == "0-3"


def test_what_was_never_finished_is_gone_with_the_server(tmp_path: Path) -> None:
    backend = DirectoryBackend(tmp_path / "registry")
    with serving(backend) as url, Client(url) as client:
        client.ask("PATCH", begin(client), DATA)
        assert len(os.listdir(backend.ingesting)) == 1
    assert os.listdir(backend.ingesting) == []
