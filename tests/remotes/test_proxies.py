"""Proxies from the environment: which are used, and what they are told."""

from __future__ import annotations

import pytest
from support.certificates import Authority
from support.contents import blob, random_bytes, read
from support.forward_proxy import forward_proxy
from support.misbehaving import Exchange, misbehaving
from support.trees import free_port

from shipway.errors import Invalid, Unavailable
from shipway.references import RegistryReference
from shipway.remotes.registry import Credentials, Limits, RegistryRemote, Trust
from shipway.remotes.registry.proxies import proxy_for

DATA = random_bytes(100_000)
FAST = Limits(connect=5, read=5, attempts=2, wait=0.01)
NAME = "registry.test:5000"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the proxies of whoever runs the tests out of them."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def serve(exchange: Exchange) -> None:
    """Answer like a registry that wants a password and honours ranges."""
    if exchange.headers.get("authorization") is None:
        exchange.answer(401, www_authenticate="Basic realm=x")
    elif (wanted := exchange.headers.get("range")) is not None:
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        exchange.answer(206, DATA[first : last + 1], content_range=f"bytes {first}-{last}/{len(DATA)}")
    else:
        exchange.answer(200, DATA)


def remote_at(host: str, *, plain: bool, trust: Trust = Trust()) -> RegistryRemote:  # noqa: B008  frozen
    reference = RegistryReference(host, "some/where", insecure=plain)
    return RegistryRemote(reference, credentials=Credentials("alice", "secret"), limits=FAST, trust=trust)


def test_https_goes_through_a_tunnel(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with (
        misbehaving(serve, tls=authority.server("registry.test")) as server,
        forward_proxy({NAME: server.host}) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
        remote = remote_at(NAME, plain=False, trust=Trust(ca=authority.ca))
        assert read(remote, blob(DATA)) == DATA
        assert read(remote, blob(DATA), 5, 5) == DATA[5:10]
        remote.close()
        assert proxy.asked == [f"CONNECT {NAME}"]
        with pytest.raises(Unavailable, match="not to be trusted"):  # a tunnel is not trusted any more than a wire
            read(remote_at(NAME, plain=False), blob(DATA))


def test_plain_http_is_asked_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with misbehaving(serve) as server, forward_proxy({NAME: server.host}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.host)
        remote = remote_at(NAME, plain=True)
        assert read(remote, blob(DATA), 5, 5) == DATA[5:10]
        remote.close()
        assert set(proxy.asked) == {f"GET http://{NAME}/v2/some/where/blobs/{blob(DATA).digest}"}


def test_a_proxy_gets_its_own_password_and_no_error_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with misbehaving(serve) as server, forward_proxy({NAME: server.host}, "proxy user:pa55:word") as proxy:
        monkeypatch.setenv("http_proxy", f"http://proxy%20user:pa55%3Aword@{proxy.host}")
        assert read(remote_at(NAME, plain=True), blob(DATA)) == DATA
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://someone:wr0ng@{proxy.host}")
            with pytest.raises(Unavailable, match="proxy") as caught:
                read(remote_at(NAME, plain=scheme == "http"), blob(DATA))
            assert "wr0ng" not in repr(caught.value) + str(caught.value)


def test_a_proxy_that_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with forward_proxy({}) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        with pytest.raises(Unavailable, match=f"{NAME}: the proxy does not let us through .*502"):
            remote_at(NAME, plain=False).manifest("latest")
    for value in (f"http://user:pa55@127.0.0.1:{free_port()}", "http://user:pa55@no-such-proxy.invalid:1"):
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", value)
            with pytest.raises(Unavailable, match=f"{NAME}: the proxy cannot be reached") as caught:
                remote_at(NAME, plain=scheme == "http").manifest("latest")
            assert "pa55" not in repr(caught.value)


def test_loopback_and_what_is_excepted_go_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with misbehaving(serve) as server, forward_proxy({}) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        assert read(remote_at(server.host, plain=True), blob(DATA)) == DATA
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "a.example:443", False),
        ("*", "a.example:443", True),
        ("a.example", "a.example:443", True),
        ("A.Example", "a.example:443", True),
        ("example", "a.example:443", True),
        ("ample", "a.example:443", False),
        (".a.example", "a.example:443", False),
        (".a.example", "x.a.example:443", True),
        ("*.a.example", "x.a.example:443", True),
        ("a.example:443", "a.example:443", True),
        ("a.example:80", "a.example:443", False),
        ("b.example, a.example", "a.example:443", True),
        ("10.0.0.0/8", "10.1.2.3:443", True),
        ("10.0.0.0/8", "11.1.2.3:443", False),
        ("10.1.2.3", "10.1.2.3:5000", True),
        ("10.1.2.3:80", "10.1.2.3:5000", False),
        ("fd00::/8", "[fd00::1]:443", True),
        ("", "localhost:443", True),
        ("", "127.3.2.1:443", True),
        ("", "[::1]:443", True),
    ],
)
def test_no_proxy_is_read_as_others_read_it(no_proxy: str, host: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": no_proxy}
    assert (proxy_for("https", host, environ) is None) is direct
    assert proxy_for("http", host, environ) is None


def test_small_letters_count_more_and_a_scripts_header_nothing() -> None:
    environ = {"http_proxy": "http://small.example", "HTTP_PROXY": "http://large.example"}
    found = proxy_for("http", "a.example:80", environ)
    assert found is not None
    assert found.url == "http://small.example:80"
    assert proxy_for("http", "a.example:80", {"HTTP_PROXY": "evil.example", "REQUEST_METHOD": "GET"}) is None


@pytest.mark.parametrize("value", ["socks5://user:pa55@host:1", "http://user:pa55@host:port", "http://user:pa55@"])
def test_a_proxy_that_is_none_is_invalid_and_not_quoted(value: str) -> None:
    with pytest.raises(Invalid, match=r"\$HTTPS_PROXY") as caught:
        proxy_for("https", "a.example:443", {"HTTPS_PROXY": value})
    assert "pa55" not in repr(caught.value)
