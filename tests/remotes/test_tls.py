"""Real registries behind TLS: whom we trust, and what we show of ourselves."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority, Certificate
from support.contents import blob, put, read
from support.misbehaving import Exchange, misbehaving
from support.registry import docker_registry

from shipway.errors import Invalid, ShipwayError, Unavailable
from shipway.references import Reference, RegistryReference
from shipway.remotes import open_remote
from shipway.remotes.registry import Credentials, Limits, RegistryRemote, Trust
from shipway.remotes.registry.opening import open_registry
from shipway.settings import RegistrySettings
from shipway.stopping import Stopped, Workers

FAST = Limits(connect=5, read=5, attempts=2, wait=0.01)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.client()


@pytest.fixture(scope="module")
def registry(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a registry whose certificate is for 127.0.0.1 alone."""
    own = authority.server("127.0.0.1")
    tls = f", tls: {{certificate: {own.cert}, key: {own.key}}}"
    with docker_registry(tmp_path_factory.mktemp("tls"), http=tls) as host:
        yield host


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a registry that wants to see a certificate of the authority."""
    own = authority.server("127.0.0.1")
    tls = f", tls: {{certificate: {own.cert}, key: {own.key}, clientcas: [{authority.ca}]}}"
    with docker_registry(tmp_path_factory.mktemp("guarded"), http=tls) as host:
        yield host


def remote_at(host: str, trust: Trust, credentials: Credentials | None = None) -> RegistryRemote:
    return RegistryRemote(
        RegistryReference(host, "some/where", insecure=False), trust=trust, limits=FAST, credentials=credentials
    )


def test_an_authority_that_is_named_is_trusted(registry: str, authority: Authority) -> None:
    remote = remote_at(registry, Trust(ca=authority.ca))
    assert read(remote, put(remote, b"behind TLS")) == b"behind TLS"
    remote.close()


def test_an_authority_that_is_not_named_is_not_trusted(registry: str) -> None:
    with pytest.raises(Unavailable, match=r"certificate is not to be trusted.*`ca`"):
        put(remote_at(registry, Trust()), b"data")


def test_a_certificate_for_another_host_is_not_trusted(registry: str, authority: Authority) -> None:
    host = registry.replace("127.0.0.1", "localhost")
    with pytest.raises(Unavailable, match="certificate is not to be trusted"):
        put(remote_at(host, Trust(ca=authority.ca)), b"data")


def test_an_insecure_registry_needs_no_certificate_that_fits(registry: str) -> None:
    for host in (registry, registry.replace("127.0.0.1", "localhost")):
        remote = remote_at(host, Trust(insecure=True))
        assert read(remote, put(remote, b"data")) == b"data"
        remote.close()


def test_an_insecure_registry_may_speak_plain_http(password_registry: str) -> None:
    credentials = Credentials("alice", "correct horse: battery")
    remote = remote_at(password_registry, Trust(insecure=True), credentials)
    descriptor = put(remote, b"data")
    before = remote.traffic.requests
    assert read(remote, descriptor) == b"data"
    assert remote.traffic.requests == before + 1  # it was remembered
    remote.close()
    with pytest.raises(Unavailable, match="does not speak TLS"):
        remote_at(password_registry, Trust(), credentials).has_blob(descriptor)


def test_on_loopback_too_an_insecure_registry_may_speak_tls_or_not(registry: str, password_registry: str) -> None:
    for host in (registry, password_registry):
        reference = Reference.parse(f"oci://{host}/some/where")
        assert isinstance(reference, RegistryReference)
        credentials = Credentials("alice", "correct horse: battery")
        remote = open_registry(reference, {host: RegistrySettings(insecure=True)}, credentials)
        assert read(remote, put(remote, b"data")) == b"data"
        remote.close()


def test_plain_http_where_tls_is_spoken_says_what_to_configure(registry: str) -> None:
    remote = open_remote(Reference.parse(f"oci://{registry}/some/where"))
    with pytest.raises(Invalid, match=r"answered 400; if .* speaks TLS, configure `ca` or `insecure`"):
        remote.manifest("latest")
    remote.close()


def test_what_an_insecure_registry_redirects_to_is_checked_all_the_same(authority: Authority) -> None:
    own = authority.server("127.0.0.1", "localhost")
    with misbehaving(lambda exchange: exchange.answer(200, b"data"), "localhost", tls=own) as elsewhere:
        location = f"https://{elsewhere.host}/blob"
        with misbehaving(lambda exchange: exchange.answer(307, location=location), tls=own) as here:
            with pytest.raises(Unavailable, match=r"localhost.*not to be trusted"):
                remote_at(here.host, Trust(insecure=True)).manifest("latest")
            with pytest.raises(ShipwayError, match="well-formed"):
                remote_at(here.host, Trust(ca=authority.ca)).manifest("latest")


def test_a_client_certificate_opens(guarded: str, authority: Authority, client: Certificate, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="client certificate"):
        put(remote_at(guarded, Trust(ca=authority.ca)), b"data")
    both = tmp_path / "both.pem"
    both.write_bytes(client.cert.read_bytes() + client.key.read_bytes())
    for shown in (
        Trust(ca=authority.ca, client_cert=client.cert, client_key=client.key),
        Trust(ca=authority.ca, client_cert=both),
    ):
        remote = remote_at(guarded, shown)
        assert read(remote, put(remote, b"data")) == b"data"
        remote.close()


def test_a_client_certificate_is_not_shown_to_another_host(authority: Authority, client: Certificate) -> None:
    seen: list[tuple[str, bool]] = []

    def there(exchange: Exchange) -> None:
        seen.append(("there", exchange.shown_certificate()))
        exchange.answer(200, b"data")

    own = authority.server("127.0.0.1", "localhost")
    with misbehaving(there, "localhost", own, authority.ca) as elsewhere:

        def here(exchange: Exchange) -> None:
            seen.append(("here", exchange.shown_certificate()))
            exchange.answer(307, location=f"https://{elsewhere.host}/blob")

        with misbehaving(here, tls=own, clients=authority.ca) as server:
            shown = Trust(ca=authority.ca, client_cert=client.cert, client_key=client.key)
            assert read(remote_at(server.host, shown), blob(b"data")) == b"data"
    assert seen == [("here", True), ("there", False)]


def test_files_that_are_of_no_use_are_named(authority: Authority, client: Certificate, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.touch()
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", str(client.key), "-aes256", "-passout", "pass:s3cret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    other = authority.server("127.0.0.1")
    for trust, name in [
        (Trust(ca=missing), "missing.pem"),
        (Trust(ca=empty), "empty.pem"),
        (Trust(client_cert=missing), "missing.pem"),
        (Trust(client_cert=client.cert, client_key=missing), "client"),
        (Trust(client_cert=client.cert), "client"),
        (Trust(client_cert=client.cert, client_key=other.key), "client"),
        (Trust(client_cert=client.cert, client_key=locked), "client.*password"),
    ]:
        with pytest.raises(Invalid, match=name):
            remote_at("127.0.0.1:1", trust).manifest("latest")


def test_a_connection_that_is_given_up_before_it_speaks_is_closed(
    registry: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[socket.socket] = []

    def stop(sock: socket.socket) -> socket.socket:
        connected.append(sock)
        workers.stop()
        return duplicate(sock)

    duplicate = socket.socket.dup
    monkeypatch.setattr(socket.socket, "dup", stop)
    with Workers(1, "x") as workers:
        future = workers.submit(put, remote_at(registry, Trust(ca=authority.ca)), b"data")
        with pytest.raises(Stopped):
            future.result()
    assert [sock.fileno() for sock in connected] == [-1]
