"""Registries that fail, lie, or try to get at credentials."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import count

import msgspec
import pytest
from support.contents import blob, opening, random_bytes, read
from support.misbehaving import Exchange, Server, misbehaving

from shipway import oci
from shipway.errors import (
    Corrupt,
    DigestMismatch,
    Invalid,
    NotFound,
    ShipwayError,
    SizeMismatch,
    Truncated,
    Unauthorized,
    Unavailable,
)
from shipway.references import RegistryReference
from shipway.remotes.contract import RangesRefused
from shipway.remotes.registry import Credentials, Limits, RegistryRemote

DATA = random_bytes(3 << 20)
BLOB = blob(DATA)
FAST = Limits(connect=5, read=1.0, attempts=3, wait=0.01, longest_wait=2.0)
ALICE = Credentials("alice", "pa55word")


def remote_at(
    host: str, credentials: Credentials | None = None, limits: Limits = FAST, chunk: int = 1 << 26
) -> RegistryRemote:
    return RegistryRemote(
        RegistryReference(host, "some/where", insecure=True), credentials=credentials, limits=limits, chunk=chunk
    )


@contextmanager
def facing(
    behave: Callable[[Exchange], None], credentials: Credentials | None = None, chunk: int = 1 << 26
) -> Iterator[tuple[RegistryRemote, Server]]:
    """Yield a remote at a misbehaving server."""
    with misbehaving(behave) as server:
        remote = remote_at(server.host, credentials, chunk=chunk)
        yield remote, server
        remote.close()


def asked_range(exchange: Exchange) -> tuple[int, int] | None:
    """Return first and last byte of the range that was asked for."""
    stated = exchange.headers.get("range")
    if stated is None:
        return None
    first, _, last = stated.removeprefix("bytes=").partition("-")
    return int(first), int(last)


def serve_range(exchange: Exchange, stop_after: int | None = None) -> None:
    """Answer like a good registry, but close the connection after some bytes."""
    first, last = asked_range(exchange) or (0, len(DATA) - 1)
    status = 200 if exchange.headers.get("range") is None else 206
    exchange.begin(status, last + 1 - first, content_range=f"bytes {first}-{last}/{len(DATA)}")
    exchange.wfile.write(DATA[first : last + 1][:stop_after])
    if stop_after is not None:
        exchange.hang_up()


# Broken connections


@pytest.mark.parametrize("rudely", [False, True])
def test_a_broken_stream_goes_on_where_it_broke(rudely: bool) -> None:
    arrived = threading.Semaphore(0)

    def behave(exchange: Exchange) -> None:
        first, last = asked_range(exchange) or (0, len(DATA) - 1)
        serve_range(exchange, stop_after=1_500_000)
        if first + 1_500_000 <= last:
            assert arrived.acquire(timeout=10)  # a reset throws away what has not been read yet
            exchange.hang_up(rudely=rudely)

    with facing(behave) as (remote, server):
        got = bytearray()
        with remote.read_blob(BLOB) as pieces:
            for piece in pieces:
                got += piece
                if len(got) in (1_500_000, 3_000_000):
                    arrived.release()
        assert bytes(got) == DATA
        assert [one.headers["range"] for one in server.asked] == [
            None,
            f"bytes=1500000-{len(DATA) - 1}",
            f"bytes=3000000-{len(DATA) - 1}",
        ]
        assert remote.traffic.received == len(DATA)
        assert remote.traffic.requests == 3


def test_a_broken_range_goes_on_within_its_end() -> None:
    with facing(lambda exchange: serve_range(exchange, stop_after=50_000)) as (remote, server):
        assert read(remote, BLOB, 1000, 120_000) == DATA[1000:121_000]
        assert [one.headers["range"] for one in server.asked] == [
            "bytes=1000-120999",
            "bytes=51000-120999",
            "bytes=101000-120999",
        ]


def test_a_stream_that_breaks_without_progress_is_truncated() -> None:
    with facing(lambda exchange: serve_range(exchange, stop_after=0)) as (remote, server):
        with pytest.raises(Truncated, match=f"after 0 of {len(DATA)}"):
            read(remote, BLOB)
        assert len(server.asked) == 1


def test_a_stream_that_breaks_again_and_again_is_given_up() -> None:
    with facing(lambda exchange: serve_range(exchange, stop_after=1)) as (remote, server):
        with pytest.raises(Truncated, match=f"after 6 of {len(DATA)}"):
            read(remote, BLOB)
        assert len(server.asked) == 6


def test_a_stream_that_stalls_is_unavailable() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.begin(200, len(DATA))
        exchange.wfile.flush()
        exchange.rfile.read(1)

    with facing(behave) as (remote, _), pytest.raises(Unavailable, match="in time"):
        read(remote, BLOB)


def trickle(exchange: Exchange, data: bytes) -> None:
    """Send a byte now and then, each in time, until nobody listens."""
    for number in range(len(data)):
        exchange.wfile.write(data[number : number + 1])
        time.sleep(0.02)


def test_a_stream_that_trickles_is_unavailable() -> None:
    def behave(exchange: Exchange) -> None:
        first, last = asked_range(exchange) or (0, len(DATA) - 1)
        stated = {"content_range": f"bytes {first}-{last}/{len(DATA)}"} if first else {}
        exchange.begin(206 if stated else 200, last + 1 - first, **stated)
        trickle(exchange, DATA)

    with misbehaving(behave) as server, pytest.raises(Unavailable, match="in time"):
        read(remote_at(server.host, limits=Limits(read=0.2, attempts=1)), BLOB)
    assert len(server.asked) == 6


def test_an_answer_whose_beginning_trickles_is_unavailable() -> None:
    answer = b"HTTP/1.1 200 OK\r\nx: " + b"x" * 10_000
    with (
        misbehaving(lambda exchange: trickle(exchange, answer)) as server,
        pytest.raises(Unavailable, match="in time"),
    ):
        remote_at(server.host, limits=Limits(read=0.2, attempts=1)).manifest("latest")


def test_a_slow_reader_is_no_slow_server() -> None:
    with misbehaving(serve_range) as server:
        got = bytearray()
        with remote_at(server.host, limits=Limits(read=0.1, attempts=1)).read_blob(BLOB) as pieces:
            for piece in pieces:
                got += piece
                if len(server.asked) == 1 and len(got) < 500_000:
                    time.sleep(0.15)
        assert bytes(got) == DATA
        assert len(server.asked) == 1


def test_a_server_that_comes_back_without_ranges_is_read_anew_and_what_was_had_is_skipped() -> None:
    turn = count()

    def behave(exchange: Exchange) -> None:
        exchange.begin(200, len(DATA))
        exchange.wfile.write(DATA[: (next(turn) + 1) << 20])
        exchange.hang_up()

    with facing(behave) as (remote, server):
        assert read(remote, BLOB) == DATA
        assert len(server.asked) == 3


# Answers that are not what was asked for


def test_the_whole_blob_is_no_answer_to_a_range_and_that_is_remembered() -> None:
    with facing(lambda exchange: exchange.answer(200, DATA)) as (remote, server):
        for _ in range(3):
            with pytest.raises(RangesRefused, match="ranges"):
                read(remote, BLOB, 10, 20)
        assert remote.traffic.received == 0
        assert len(server.asked) == 1
        assert read(remote, BLOB) == DATA


def test_a_size_that_a_head_does_not_tell_is_not_missed() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.begin(200 if exchange.path.endswith(BLOB.digest) else 404)

    with facing(behave) as (remote, _):
        assert remote.has_blob(BLOB)
        assert not remote.has_blob(blob(b"other"))


@pytest.mark.parametrize(("when", "attempts"), [("Tue, 20 Oct 2015 07:28:00 GMT", 3), ("{later}", 1), ("soon", 3)])
def test_a_pause_may_be_asked_for_by_a_date(when: str, attempts: int) -> None:
    value = when.format(later=formatdate(time.time() + 3600, usegmt=True))
    with facing(lambda exchange: exchange.answer(503, retry_after=value)) as (remote, server):
        with pytest.raises(Unavailable, match="503"):
            remote.manifest("latest")
        assert len(server.asked) == attempts


def test_ranges_are_not_asked_for_where_the_whole_is_wanted() -> None:
    with facing(lambda exchange: exchange.answer(200, DATA)) as (remote, _):
        assert read(remote, BLOB, 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    "stated", ["bytes 11-30/3145728", "bytes 10-28/3145728", "bytes 10-30/3145728", "bytes 10-29", "", "bytes 10-29/-1"]
)
def test_another_range_is_no_answer(stated: str) -> None:
    with facing(lambda exchange: exchange.answer(206, bytes(20), content_range=stated)) as (remote, _):
        with pytest.raises(Unavailable, match="not asked for"):
            read(remote, BLOB, 10, 20)
        assert remote.traffic.received == 0


@pytest.mark.parametrize(("total", "error"), [(100, Truncated), (1 << 30, SizeMismatch)])
def test_a_range_of_a_blob_of_another_size_is_corrupt(total: int, error: type[Corrupt]) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(206, bytes(20), content_range=f"bytes 10-29/{total}")

    with facing(behave) as (remote, _), pytest.raises(error):
        read(remote, BLOB, 10, 20)


def test_a_range_that_is_shorter_than_it_says_is_corrupt() -> None:
    stated = f"bytes 10-29/{len(DATA)}"

    def behave(exchange: Exchange) -> None:
        exchange.answer(206, bytes(19), content_range=stated)

    with facing(behave) as (remote, _), pytest.raises(Truncated):
        read(remote, BLOB, 10, 20)


def test_an_endless_body_is_cut_off() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.begin(200, transfer_encoding="chunked")
        while True:
            exchange.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    with facing(behave) as (remote, _):
        with pytest.raises(SizeMismatch):
            read(remote, BLOB)
        assert remote.traffic.received <= len(DATA) + 1
        with pytest.raises(SizeMismatch):
            remote.manifest("latest")
        with pytest.raises(SizeMismatch):
            list(remote.tags())


def test_a_manifest_with_another_digest_is_refused() -> None:
    data = b'{"schemaVersion":2}'
    right, wrong = oci.sha256(data), oci.sha256(b"other")

    def behave(exchange: Exchange) -> None:
        stated = wrong if exchange.path.endswith("lying") else right
        exchange.answer(200, data, content_type=oci.MANIFEST, docker_content_digest=stated)

    with facing(behave) as (remote, _):
        assert remote.manifest(right)[0].digest == right
        for target in ("lying", wrong):
            with pytest.raises(DigestMismatch):
                remote.manifest(target)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"mediaType":"' + oci.INDEX.encode() + b'"}', b"[" * 100_000])
def test_a_manifest_that_is_not_what_it_is_served_as_is_corrupt(body: bytes) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, body, content_type=oci.MANIFEST)

    with facing(behave) as (remote, _), pytest.raises(Corrupt):
        remote.manifest("latest")


def test_a_stored_blob_with_another_digest_is_noticed() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.body()
        if exchange.command == "POST":
            exchange.answer(202, location="/upload?state=a%3Db")
        else:
            exchange.answer(201, docker_content_digest=oci.sha256(b"other"))

    with facing(behave) as (remote, server):
        with pytest.raises(DigestMismatch):
            remote.put_blob(BLOB, opening(DATA))
        assert server.paths("PUT") == [f"/upload?state=a%3Db&digest=sha256%3A{BLOB.digest[7:]}"]


def test_pages_of_tags_that_go_in_a_circle_are_noticed() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b'{"tags":["a"]}', link='</v2/some/where/tags/list?last=a>; rel="next"')

    with facing(behave) as (remote, server):
        with pytest.raises(Unavailable, match="circle"):
            list(remote.tags())
        assert len(server.asked) == 2


def test_pages_of_tags_at_another_host_are_not_asked_for() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b'{"tags":["a"]}', link='<http://other.invalid/x>; rel="next"')

    with facing(behave) as (remote, _), pytest.raises(Unavailable, match="another host"):
        list(remote.tags())


# Trouble that may pass, and trouble that does not


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failing_server_is_asked_again(status: int) -> None:
    turn = count()

    def behave(exchange: Exchange) -> None:
        if next(turn) < 2:
            exchange.answer(status, b"oops", retry_after="0")
        else:
            exchange.answer(200, b'{"tags":["a"]}')

    with facing(behave) as (remote, _):
        assert list(remote.tags()) == ["a"]
        assert remote.traffic.requests == 3


def test_a_server_that_keeps_failing_is_unavailable() -> None:
    with facing(lambda exchange: exchange.answer(500)) as (remote, server):
        with pytest.raises(Unavailable, match=f"{server.host}.*500"):
            remote.manifest("latest")
        assert len(server.asked) == FAST.attempts


def test_a_server_that_asks_for_a_long_pause_is_not_waited_for() -> None:
    with facing(lambda exchange: exchange.answer(429, retry_after="3600")) as (remote, server):
        with pytest.raises(Unavailable, match="429"):
            remote.manifest("latest")
        assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "error"), [(400, Invalid), (404, NotFound), (403, Unauthorized), (418, Invalid)])
def test_a_refusal_is_final(status: int, error: type[ShipwayError]) -> None:
    with facing(lambda exchange: exchange.answer(status)) as (remote, server):
        with pytest.raises(error, match=r"some/where:latest"):
            remote.manifest("latest")
        assert len(server.asked) == 1


def test_an_upload_begins_anew_after_a_failure() -> None:
    turn = count()

    def behave(exchange: Exchange) -> None:
        exchange.body()
        if exchange.command == "POST":
            exchange.answer(202, location=f"/upload/{next(turn)}")
        elif exchange.path.startswith("/upload/0"):
            exchange.answer(503)
        else:
            exchange.answer(201, docker_content_digest=BLOB.digest)

    heard: list[int] = []
    with facing(behave) as (remote, server):
        remote.put_blob(BLOB, opening(DATA), heard.append)
        assert [path.partition("?")[0] for path in server.paths("PUT")] == ["/upload/0", "/upload/1"]
    assert sum(heard) == len(DATA)


def test_a_chunked_upload_goes_on_where_the_server_says() -> None:
    stored = bytearray()
    turn = count()

    def behave(exchange: Exchange) -> None:
        if exchange.command == "PATCH" and next(turn) == 1:
            stored.extend(exchange.rfile.read(100_000))
            exchange.hang_up(rudely=True)
            return
        body = exchange.body()
        if exchange.command == "PATCH":
            assert exchange.headers["content-range"] == f"{len(stored)}-{len(stored) + len(body) - 1}"
            stored.extend(body)
        status = {"POST": 202, "PATCH": 202, "GET": 204, "PUT": 201}[exchange.command]
        exchange.answer(status, location=f"/upload?at={len(stored)}", range=f"0-{max(len(stored) - 1, 0)}")

    heard: list[int] = []
    with facing(behave, chunk=1 << 20) as (remote, server):
        remote.put_blob(BLOB, opening(DATA), heard.append)
        assert [one.method for one in server.asked] == ["POST", "PATCH", "PATCH", "GET", "PATCH", "PATCH", "PUT"]
    assert bytes(stored) == DATA
    assert sum(heard) == len(DATA)


def test_an_upload_that_fails_for_good_is_called_off() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.body()
        if exchange.command == "POST":
            exchange.answer(202, location="/upload/1")
        else:
            exchange.answer(204 if exchange.command == "DELETE" else 400)

    with facing(behave) as (remote, server):
        with pytest.raises(Invalid):
            remote.put_blob(BLOB, opening(DATA))
        assert server.paths("DELETE") == ["/upload/1"]


def test_nobody_listening_is_unavailable_and_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{host}: connection refused"):
            remote_at(host).manifest("latest")


def test_an_unknown_host_is_unavailable_and_named() -> None:
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        remote_at("no-such-host.invalid").manifest("latest")


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limits = Limits(read=0.1, attempts=1)
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable) as failed:
            remote_at(host, limits=limits).manifest("latest")
    assert str(failed.value) == f"{host}: does not answer in time"


@pytest.mark.parametrize("rudely", [False, True])
def test_a_server_that_hangs_up_is_told_of_in_words(rudely: bool) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.hang_up(rudely=rudely)

    with facing(behave) as (remote, server):
        with pytest.raises(Unavailable) as failed:
            remote.manifest("latest")
        why = str(failed.value).removeprefix(f"{server.host}: the connection broke")
        assert why in ("", " (connection reset by peer)")


def test_plain_http_where_tls_is_expected_says_what_to_write() -> None:
    with misbehaving(lambda exchange: exchange.answer(200)) as server:
        remote = RegistryRemote(RegistryReference(server.host, "x", insecure=False), limits=FAST)
        with pytest.raises(Unavailable, match=r"oci\+http"):
            remote.manifest("latest")


# Credentials


def basic(exchange: Exchange) -> bool:
    """Ask for a password if none came; whether one did."""
    if exchange.headers.get("authorization") is None:
        exchange.answer(401, www_authenticate='Basic realm="here"')
        return False
    return True


def test_a_redirect_to_another_host_gets_no_credentials() -> None:
    with misbehaving(serve_range, name="localhost") as other:

        def behave(exchange: Exchange) -> None:
            if basic(exchange):
                exchange.answer(307, location=f"http://{other.host}/elsewhere?signature=1")

        with facing(behave, ALICE) as (remote, server):
            assert read(remote, BLOB, 5, 5) == DATA[5:10]
            assert [one.headers["authorization"] is None for one in server.asked] == [True, False]
        assert [one.path for one in other.asked] == ["/elsewhere?signature=1"]
        assert other.asked[0].headers["authorization"] is None
        assert other.asked[0].headers["range"] == "bytes=5-9"


def test_a_redirect_on_the_same_host_keeps_credentials() -> None:
    def behave(exchange: Exchange) -> None:
        if basic(exchange) and exchange.path.startswith("/v2/"):
            exchange.answer(302, location="/elsewhere")
        elif exchange.path == "/elsewhere":
            serve_range(exchange)

    with facing(behave, ALICE) as (remote, _):
        assert read(remote, BLOB) == DATA


def test_an_upload_to_another_host_gets_no_credentials() -> None:
    def store(exchange: Exchange) -> None:
        exchange.body()
        exchange.answer(201)

    with misbehaving(store, name="localhost") as other:

        def behave(exchange: Exchange) -> None:
            if basic(exchange):
                exchange.answer(202, location=f"http://{other.host}/upload")

        with facing(behave, ALICE) as (remote, _):
            remote.put_blob(BLOB, opening(DATA))
        assert [one.headers["authorization"] for one in other.asked] == [None]


def test_redirects_have_an_end() -> None:
    with facing(lambda exchange: exchange.answer(302, location=exchange.path + "x")) as (remote, server):
        with pytest.raises(Unavailable, match="redirects"):
            remote.manifest("latest")
        assert len(server.asked) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[", "http://"])
def test_a_redirect_to_what_is_not_http_is_refused(location: str) -> None:
    with facing(lambda exchange: exchange.answer(302, location=location)) as (remote, _), pytest.raises(Unavailable):
        remote.manifest("latest")


def test_an_error_never_repeats_a_password() -> None:
    secret = base64.b64encode(b"alice:pa55word").decode()

    def behave(exchange: Exchange) -> None:
        if basic(exchange):
            said = f"you sent {exchange.headers['authorization']}, that is pa55word\r\n\x1b[31m" + "x" * 5000
            exchange.answer(403, msgspec.json.encode({"errors": [{"code": "DENIED", "message": said}]}))

    with facing(behave, ALICE) as (remote, _), pytest.raises(Unauthorized) as caught:
        remote.manifest("latest")
    said = repr(caught.value) + str(caught.value)
    assert "you sent" in said
    assert "pa55word" not in said
    assert secret not in said
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert "pa55word" not in repr(ALICE)
