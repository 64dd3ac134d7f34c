"""Getting in: passwords and tokens, with real registries that want them."""

from __future__ import annotations

import base64
import json
import time
from itertools import count
from pathlib import Path

import pytest
from support.contents import blob, opening, put, put_image, random_bytes, read
from support.misbehaving import Exchange, misbehaving
from support.registry import PASSWORD, USER, TokenRegistry
from support.token_service import TokenService

from shipway.errors import Invalid, ShipwayError, Unauthorized, Unavailable
from shipway.references import RegistryReference
from shipway.refs import Traffic
from shipway.remotes.registry import Credentials, Limits, RegistryRemote, store_credentials
from shipway.remotes.registry.auth import Challenge, parse_challenges

ALICE = Credentials(USER, PASSWORD)
MALLORY = Credentials(USER, "guessed")
TOKEN = Credentials("", identity_token=TokenService.identity_token)
FAST = Limits(attempts=2, wait=0.01)


def remote_at(host: str, repository: str, credentials: Credentials | None = None) -> RegistryRemote:
    return RegistryRemote(RegistryReference.parse(f"oci://{host}/{repository}"), credentials=credentials, limits=FAST)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the credentials of whoever runs the tests out of them."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    return tmp_path


# Passwords


def test_the_right_password_opens(password_registry: str, repository: str) -> None:
    remote = remote_at(password_registry, repository, ALICE)
    image = put_image(remote, b"layer", tag="x")
    assert remote.manifest("x") == image


def test_a_wrong_password_is_unauthorized_and_names_the_registry(password_registry: str, repository: str) -> None:
    with pytest.raises(Unauthorized, match=f"{password_registry}.*{USER}.*shipway login") as caught:
        remote_at(password_registry, repository, MALLORY).manifest("x")
    assert "guessed" not in repr(caught.value) + str(caught.value)


def test_no_password_is_unauthorized(password_registry: str, repository: str) -> None:
    remote = remote_at(password_registry, repository)
    with pytest.raises(Unauthorized, match="wants credentials"):
        remote.manifest("x")
    with pytest.raises(Unauthorized):
        put(remote, b"data")


def test_a_password_is_looked_up_when_it_is_needed(password_registry: str, repository: str) -> None:
    remote = remote_at(password_registry, repository)
    with pytest.raises(Unauthorized):
        list(remote.tags())
    store_credentials(password_registry, USER, PASSWORD)
    assert read(remote, put(remote, b"data")) == b"data"


def test_a_password_is_asked_for_once(password_registry: str, repository: str) -> None:
    remote = remote_at(password_registry, repository, ALICE)
    descriptor = put(remote, b"data")
    before = remote.traffic.requests
    for _ in range(5):
        read(remote, descriptor)
    assert remote.traffic.requests - before == 5


# Tokens


def test_a_token_opens(token_registry: TokenRegistry, repository: str) -> None:
    remote = remote_at(token_registry.host, repository, ALICE)
    data = random_bytes(100_000)
    descriptor = put(remote, data)
    image = put_image(remote, data, tag="x")
    assert read(remote, descriptor, 10, 10) == data[10:20]
    assert remote.manifest("x") == image
    assert list(remote.tags()) == ["x"]


def test_an_identity_token_buys_tokens(token_registry: TokenRegistry, repository: str) -> None:
    remote = remote_at(token_registry.host, repository, TOKEN)
    assert read(remote, put(remote, b"data")) == b"data"
    assert token_registry.service.asked[-1].method == "POST"


def test_what_is_public_needs_no_credentials(token_registry: TokenRegistry, repository: str) -> None:
    image = put_image(remote_at(token_registry.host, f"public/{repository}", ALICE), b"layer", tag="x")
    anybody = remote_at(token_registry.host, f"public/{repository}")
    assert anybody.manifest("x") == image
    assert token_registry.service.asked[-1].authorization == ""
    with pytest.raises(Unauthorized):
        put(anybody, b"data")


def test_what_is_not_public_does(token_registry: TokenRegistry, repository: str) -> None:
    put_image(remote_at(token_registry.host, repository, ALICE), b"layer", tag="x")
    with pytest.raises(Unauthorized, match="wants credentials"):
        remote_at(token_registry.host, repository).manifest("x")
    with pytest.raises(Unauthorized, match=USER):
        remote_at(token_registry.host, repository, MALLORY).manifest("x")


def test_a_token_is_bought_once_for_each_scope(token_registry: TokenRegistry, repository: str) -> None:
    remote = remote_at(token_registry.host, repository, ALICE)
    before = len(token_registry.service.asked)
    descriptors = [put(remote, bytes([number])) for number in range(3)]
    for descriptor in descriptors:
        read(remote, descriptor)
    scopes = [one.scopes for one in token_registry.service.asked[before:]]
    assert scopes == [(f"repository:{repository}:pull,push",), (f"repository:{repository}:pull",)]


def test_traffic_counts_the_token_too(token_registry: TokenRegistry, repository: str) -> None:
    remote = remote_at(token_registry.host, repository, ALICE)
    put(remote, b"data")
    assert remote.traffic.requests == 4  # refused, token, begun, sent
    assert remote.traffic.sent == 4


def test_a_mount_asks_for_both_repositories(token_registry: TokenRegistry, repository: str) -> None:
    source = remote_at(token_registry.host, repository, ALICE)
    descriptor = put(source, b"data")
    target = remote_at(token_registry.host, f"{repository}-copy", ALICE)
    target.put_blob(descriptor, lambda: pytest.fail("it need not be read"), mount_from=source.name)
    assert target.traffic.sent == 0
    assert target.has_blob(descriptor)
    assert set(token_registry.service.asked[-2].scopes) == {
        f"repository:{repository}:pull",
        f"repository:{repository}-copy:pull,push",
    }


def test_a_mount_of_what_is_not_there_becomes_an_upload(registry: str, repository: str) -> None:
    source = remote_at(registry, repository)
    put(source, b"other")
    target = remote_at(registry, f"{repository}-copy")
    target.put_blob(blob(b"data"), opening(b"data"), mount_from=source.name)
    assert target.traffic == Traffic(requests=2, sent=4)
    assert read(target, blob(b"data")) == b"data"
    with pytest.raises(Invalid, match="repository"):
        target.put_blob(blob(b"data"), opening(b"data"), mount_from=f"oci://{registry}/no name&digest=x")


# Tokens of services that misbehave


def bearer(exchange: Exchange, token: bytes) -> None:
    """Answer as a registry and its own token service."""
    if exchange.path.startswith("/token"):
        exchange.answer(200, token)
    elif exchange.headers.get("authorization") == "Bearer good":
        exchange.answer(200, b'{"tags":["a"]}')
    else:
        realm = f"http://{exchange.headers['host']}/token"
        exchange.answer(401, www_authenticate=f'Bearer realm="{realm}",service="s",scope="repository:x:pull"')


def test_an_access_token_is_a_token() -> None:
    with misbehaving(lambda exchange: bearer(exchange, b'{"access_token":"good"}')) as server:
        assert list(remote_at(server.host, "x").tags()) == ["a"]
        assert server.paths("GET")[1] == "/token?service=s&scope=repository%3Ax%3Apull"


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"token":""}', b'{"token":"a\\r\\nX-Evil: 1"}', b'{"token":1}', b" " * (2 << 20)]
)
def test_an_answer_without_a_token_is_an_error(answer: bytes) -> None:
    with misbehaving(lambda exchange: bearer(exchange, answer)) as server, pytest.raises(ShipwayError):
        list(remote_at(server.host, "x").tags())


def test_a_token_that_is_refused_is_unauthorized() -> None:
    with misbehaving(lambda exchange: bearer(exchange, b'{"token":"bad"}')) as server:
        with pytest.raises(Unauthorized):
            list(remote_at(server.host, "x").tags())
        assert len(server.asked) == 3


def test_a_token_that_ends_early_is_bought_anew() -> None:
    turn = count()
    good = ["Bearer 0"]

    def behave(exchange: Exchange) -> None:
        if exchange.path.startswith("/token"):
            exchange.answer(200, json.dumps({"token": str(next(turn)), "expires_in": 300}).encode())
        elif exchange.headers.get("authorization") == good[0]:
            exchange.answer(200, b'{"tags":["a"]}')
        else:
            exchange.answer(401, www_authenticate=f'Bearer realm="http://{exchange.headers["host"]}/token"')

    with misbehaving(behave) as server:
        remote = remote_at(server.host, "x", ALICE)
        assert list(remote.tags()) == ["a"]
        good[0] = "Bearer 1"
        assert list(remote.tags()) == ["a"]
        assert remote.traffic.requests == 6


def test_a_token_is_not_used_past_its_end() -> None:
    with misbehaving(lambda exchange: bearer(exchange, b'{"token":"good","expires_in":0.02}')) as server:
        remote = remote_at(server.host, "x")
        assert list(remote.tags()) == ["a"]
        time.sleep(0.03)
        assert list(remote.tags()) == ["a"]
        assert [path.startswith("/token") for path in server.paths("GET")] == [False, True, False, True, False]


def test_a_token_service_that_fails_is_asked_again() -> None:
    turn = count()

    def behave(exchange: Exchange) -> None:
        if exchange.path.startswith("/token") and next(turn) == 0:
            exchange.answer(503)
        else:
            bearer(exchange, b'{"token":"good"}')

    with misbehaving(behave) as server:
        assert list(remote_at(server.host, "x").tags()) == ["a"]


def test_a_realm_that_is_not_http_is_refused() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(401, www_authenticate='Bearer realm="file:///etc/passwd"')

    with misbehaving(behave) as server, pytest.raises(Unavailable):
        remote_at(server.host, "x", ALICE).manifest("y")


@pytest.mark.parametrize("header", ["", "Negotiate", 'Digest realm="x", nonce="y"'])
def test_a_scheme_that_is_unknown_is_said(header: str) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.answer(401, www_authenticate=header)

    with misbehaving(behave) as server, pytest.raises(Unauthorized, match="no way"):
        remote_at(server.host, "x", ALICE).manifest("y")


def test_challenges_are_read() -> None:
    assert parse_challenges('Bearer realm="https://a.example/t?x=1,2",service="s \\"q\\"" , scope="a:b:d,c e"') == [
        Challenge("bearer", "https://a.example/t?x=1,2", 's "q"', frozenset({"a:b:c,d", "e"}))
    ]
    assert parse_challenges('Negotiate, Basic realm="x", BEARER Realm=plain') == [
        Challenge("negotiate"),
        Challenge("basic", "x"),
        Challenge("bearer", "plain"),
    ]
    assert parse_challenges("") == []


def test_credentials_do_not_show_themselves() -> None:
    shown = repr(Credentials("alice", "pa55word", "tok3n"))
    assert "pa55word" not in shown
    assert "tok3n" not in shown
    assert base64.b64encode(b"alice:pa55word").decode() not in shown
