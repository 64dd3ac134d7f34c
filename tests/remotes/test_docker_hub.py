"""Docker Hub as it is: a registry under another name, tokens of a second host, blobs at a third; TLS and a proxy."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from support.certificates import Authority
from support.contents import blob, manifest_of, random_bytes, read
from support.forward_proxy import forward_proxy
from support.misbehaving import Exchange, misbehaving

from shipway import oci
from shipway.errors import Unauthorized
from shipway.references import RegistryReference
from shipway.remotes.registry import Limits, RegistryRemote, Trust

REGISTRY, TOKENS, STORAGE = "registry-1.docker.io:443", "auth.docker.io:443", "storage.example:443"
DATA = random_bytes(200_000)
MANIFEST = manifest_of(blob(b"{}", oci.DOCKER_CONFIG), blob(DATA), media_type=oci.DOCKER_MANIFEST)
SCOPE = "repository:library/alpine:pull"


class Hub:
    """The three hosts. A token lasts for `uses` requests; the next `breaks` blobs break off in the middle."""

    def __init__(self) -> None:
        self.uses = 1000
        self.breaks = 0
        self.sold: list[tuple[str, str]] = []
        """Who bought tokens, for which scope."""
        self.stored: list[str | None] = []
        """The credentials that the storage was sent."""
        self._left: dict[str, int] = {}

    def registry(self, exchange: Exchange) -> None:
        token = (exchange.headers.get("authorization") or "").removeprefix("Bearer ")
        if self._left.get(token, 0) <= 0:
            realm = f'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="{SCOPE}"'
            exchange.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', www_authenticate=realm)
            return
        self._left[token] -= 1
        if exchange.path == "/v2/library/alpine/manifests/latest":
            exchange.answer(200, MANIFEST[1], content_type=MANIFEST[0].media_type)
        elif exchange.path == f"/v2/library/alpine/blobs/{blob(DATA).digest}":
            exchange.answer(307, location="https://storage.example/blob?signature=x")
        else:
            exchange.answer(404)

    def tokens(self, exchange: Exchange) -> None:
        asked = parse_qs(urlsplit(exchange.path).query)
        basic = (exchange.headers.get("authorization") or "").removeprefix("Basic ")
        self.sold.append((base64.b64decode(basic).decode(), asked["scope"][0]))
        if self.sold[-1][0] not in ("", "alice:secret"):
            exchange.answer(401, b'{"details":"incorrect username or password"}')
            return
        token = f"token-{len(self.sold)}"
        self._left[token] = self.uses
        answer = {"token": token, "access_token": token, "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"}
        exchange.answer(200, json.dumps(answer).encode())

    def storage(self, exchange: Exchange) -> None:
        self.stored.append(exchange.headers.get("authorization"))
        asked = exchange.headers.get("range")
        first, last = (int(end) for end in asked.removeprefix("bytes=").split("-")) if asked else (0, len(DATA) - 1)
        stated = {"content_range": f"bytes {first}-{last}/{len(DATA)}"} if asked else {}
        exchange.begin(206 if asked else 200, last + 1 - first, **stated)
        body = DATA[first : last + 1]
        if self.breaks:
            self.breaks -= 1
            exchange.wfile.write(body[: len(body) // 2])
            exchange.hang_up()
        else:
            exchange.wfile.write(body)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def hub(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield Docker Hub, as far as this process can see; nobody is logged in."""
    for name in ("https_proxy", "no_proxy", "NO_PROXY", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    own = authority.server(*(host.partition(":")[0] for host in (REGISTRY, TOKENS, STORAGE)))
    made = Hub()

    with (
        misbehaving(made.registry, tls=own) as registry,
        misbehaving(made.tokens, tls=own) as tokens,
        misbehaving(made.storage, tls=own) as storage,
        forward_proxy({REGISTRY: registry.host, TOKENS: tokens.host, STORAGE: storage.host}) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
        yield made


@pytest.fixture
def remote(hub: Hub, authority: Authority) -> Iterator[RegistryRemote]:
    del hub
    opened = RegistryRemote(
        RegistryReference.parse("oci://docker.io/alpine"),
        limits=Limits(connect=10, read=10, attempts=2, wait=0.01),
        trust=Trust(ca=authority.ca),
    )
    yield opened
    opened.close()


def log_in(tmp_path: Path, password: str) -> None:
    entry = {"auth": base64.b64encode(f"alice:{password}".encode()).decode()}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": entry}}))


def test_an_official_image_is_read_by_anybody(hub: Hub, remote: RegistryRemote) -> None:
    assert remote.manifest("latest") == MANIFEST
    assert read(remote, blob(DATA)) == DATA
    assert read(remote, blob(DATA), 1000, 10) == DATA[1000:1010]
    assert hub.sold == [("", SCOPE)]
    assert hub.stored == [None, None]
    assert remote.name == "oci://docker.io/alpine"


def test_who_is_logged_in_buys_tokens_as_that(hub: Hub, remote: RegistryRemote, tmp_path: Path) -> None:
    log_in(tmp_path, "secret")
    assert read(remote, blob(DATA)) == DATA
    assert hub.sold == [("alice:secret", SCOPE)]
    assert hub.stored == [None]


def test_a_wrong_password_is_unauthorized(hub: Hub, remote: RegistryRemote, tmp_path: Path) -> None:
    log_in(tmp_path, "wr0ng")
    with pytest.raises(Unauthorized, match=r"docker\.io.*alice.*shipway login docker\.io") as caught:
        remote.manifest("latest")
    assert "wr0ng" not in repr(caught.value)
    assert hub.stored == []


def test_a_token_that_ends_in_the_middle_of_a_transfer_is_bought_anew(hub: Hub, remote: RegistryRemote) -> None:
    hub.uses, hub.breaks = 1, 3
    assert read(remote, blob(DATA)) == DATA
    assert len(hub.sold) == 4
    assert hub.stored == [None] * 4
