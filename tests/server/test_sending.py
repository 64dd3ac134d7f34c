"""Blobs as they go out: conditions, how they are read, and what becomes of their files meanwhile."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from support.contents import random_bytes
from support.directory_backend import DirectoryBackend
from support.http import Client

from shipway import oci
from shipway.server import opened, serving

SMALL, LARGE = random_bytes(100_000), random_bytes(3_000_000)


class Counting(DirectoryBackend):
    """Counts how often a blob is looked up."""

    looked_up = 0

    def blob_path(self, digest: str) -> tuple[Path, int]:
        self.looked_up += 1
        return super().blob_path(digest)


@pytest.fixture
def backend(tmp_path: Path) -> Counting:
    """Return an empty backend that counts."""
    return Counting(tmp_path / "registry")


@pytest.fixture
def held_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold files open longer than a test takes."""
    monkeypatch.setattr(opened, "HELD", 60)


def url_of(client: Client, data: bytes) -> str:
    return f"/v2/a/b/blobs/{client.put_blob(data)}"


def open_files(directory: Path) -> list[str]:
    """Return the files in `directory` that this process has open, also those removed since."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(str(directory))]


# Conditions


def test_the_entity_tag_is_the_digest(client: Client) -> None:
    path = url_of(client, SMALL)
    tags = {client.ask(method, path).headers["etag"] for method in ("GET", "HEAD")}
    assert tags == {f'"{oci.sha256(SMALL)}"'}


@pytest.mark.parametrize("named", ["*", f'"{oci.sha256(SMALL)}"', f'"other", W/"{oci.sha256(SMALL)}"'])
def test_who_has_it_is_told_so(client: Client, named: str) -> None:
    answer = client.ask("GET", url_of(client, SMALL), if_none_match=named)
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize(
    ("named", "status"),
    [("*", 200), (f'"{oci.sha256(SMALL)}"', 200), ('"other"', 412), (f'W/"{oci.sha256(SMALL)}"', 412)],
)
def test_who_insists_on_another_is_refused(client: Client, named: str, status: int) -> None:
    assert client.ask("GET", url_of(client, SMALL), if_match=named).status == status


@pytest.mark.parametrize(
    ("named", "status"), [(f'"{oci.sha256(SMALL)}"', 206), ('"other"', 200), ("Tue, 24 Nov 2026 20:00:00 GMT", 200)]
)
def test_a_range_of_what_it_was_is_only_answered_if_it_still_is(client: Client, named: str, status: int) -> None:
    answer = client.ask("GET", url_of(client, SMALL), range="bytes=5-8", if_range=named)
    assert (answer.status, answer.body) == (status, SMALL[5:9] if status == 206 else SMALL)


def test_ranges_are_for_get(client: Client) -> None:
    answer = client.ask("HEAD", url_of(client, SMALL), range="bytes=5-8")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(SMALL)))


def test_the_last_no_bytes_cannot_be_had(client: Client) -> None:
    answer = client.ask("GET", url_of(client, SMALL), range="bytes=-0")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(SMALL)}")


def test_there_is_no_range_of_an_empty_blob(client: Client) -> None:
    path = url_of(client, b"")
    assert client.ask("GET", path, range="bytes=0-").status == 416
    assert client.ask("GET", path).status == 200


# Reading

RANGES = {"bytes=7-70006": slice(7, 70_007), "bytes=11-2000010": slice(11, 2_000_011), "bytes=2-": slice(2, None)}


def no_sendfile(*_: object) -> int:
    raise OSError(errno.EINVAL, "this file system does not do it")


def unable_to_tell(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "this file system does not do it")


def not_in_memory(*_: object) -> int:
    raise BlockingIOError


def half_in_memory(descriptor: int, buffers: list[bytearray], first: int, _flags: int) -> int:
    part = os.pread(descriptor, len(buffers[0]) // 2, first)
    buffers[0][: len(part)] = part
    return len(part)


@pytest.mark.parametrize(
    "system",
    [{}, {"sendfile": no_sendfile}, {"preadv": unable_to_tell}, {"preadv": not_in_memory}, {"preadv": half_in_memory}],
)
def test_ranges_are_the_same_whatever_the_file_system_can_do(
    client: Client, monkeypatch: pytest.MonkeyPatch, system: dict[str, object]
) -> None:
    path = url_of(client, LARGE)
    for name, instead in system.items():
        monkeypatch.setattr(os, name, instead)
    for asked, part in RANGES.items():
        assert client.ask("GET", path, range=asked).body == LARGE[part]
    assert client.ask("GET", path).body == LARGE


@pytest.mark.usefixtures("held_long")
def test_a_blob_that_became_shorter_is_an_error_and_never_other_bytes(client: Client, backend: Counting) -> None:
    path = url_of(client, LARGE)
    assert client.ask("GET", path, range="bytes=0-9").status == 206
    os.truncate(backend.blobs / oci.sha256(LARGE), 1000)
    assert client.ask("GET", path, range="bytes=5000-5009").refusal == (500, "UNKNOWN")
    with client.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
        got = b"".join(iter(lambda: connection.recv(1 << 20), b""))  # until the server hangs up
    head, _, body = got.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(LARGE)}".encode() in head
    assert body == LARGE[:1000]


# Files


@pytest.mark.usefixtures("held_long")
def test_requests_that_follow_one_another_share_a_file(client: Client, backend: Counting) -> None:
    path = url_of(client, SMALL)
    for first in range(100):
        assert client.ask("GET", path, range=f"bytes={first}-{first}").body == SMALL[first : first + 1]
    assert backend.looked_up == 1
    assert len(open_files(backend.blobs)) == 1


@pytest.mark.usefixtures("held_long")
def test_a_blob_that_was_removed_is_gone_at_once(client: Client, backend: Counting) -> None:
    path = url_of(client, SMALL)
    assert client.ask("GET", path).body == SMALL
    (backend.blobs / oci.sha256(SMALL)).unlink()
    assert client.ask("GET", path).refusal == (404, "BLOB_UNKNOWN")
    client.put_blob(SMALL)
    assert client.ask("GET", path).body == SMALL


@pytest.mark.usefixtures("held_long")
def test_a_file_that_took_the_place_of_another_is_sent_soon(client: Client, backend: Counting) -> None:
    path, file = url_of(client, SMALL), backend.blobs / oci.sha256(SMALL)
    file.write_bytes(b"damaged")
    assert client.ask("GET", path).body == b"damaged"
    client.put_blob(SMALL)
    while client.ask("GET", path).body != SMALL:
        time.sleep(0.01)


def test_a_blob_may_be_removed_while_it_is_sent(client: Client, backend: Counting) -> None:
    data = random_bytes(32 << 20)
    path = url_of(client, data)
    with client.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\nConnection: close\r\n\r\n".encode())
        got = connection.recv(1000)
        (backend.blobs / oci.sha256(data)).unlink()
        got += b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert got.partition(b"\r\n\r\n")[2] == data


@pytest.mark.usefixtures("held_long")
def test_a_file_that_was_removed_is_closed_though_nobody_asks_for_it(client: Client, backend: Counting) -> None:
    client.ask("GET", url_of(client, SMALL))
    (backend.blobs / oci.sha256(SMALL)).unlink()
    while open_files(backend.blobs):
        time.sleep(0.01)


def test_a_file_that_nobody_asks_for_any_more_is_closed(client: Client, backend: Counting) -> None:
    client.ask("GET", url_of(client, SMALL))
    while open_files(backend.blobs):
        time.sleep(0.01)


@pytest.mark.usefixtures("held_long")
def test_files_that_are_open_are_bounded_in_number(
    client: Client, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "MOST", 3)
    paths = [url_of(client, bytes([number])) for number in range(20)]
    for number, path in enumerate(paths):
        assert client.ask("GET", path).body == bytes([number])
    while len(open_files(backend.blobs)) > 3:  # the last ones may still be held by their answers
        time.sleep(0.01)


def test_nothing_stays_open_after_the_server(backend: Counting) -> None:
    with serving(backend) as url, Client(url) as client:
        client.ask("GET", url_of(client, SMALL))
        assert open_files(backend.blobs)
    assert open_files(backend.blobs) == []
