"""The server as a whole: starting, stopping, failing, and being used by several at once."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.contents import blob, manifest_of
from support.directory_backend import DirectoryBackend, FileWriter
from support.http import Client

from shipway import oci
from shipway.errors import Locked, NoSpace, ShipwayError, Unauthorized, Unavailable
from shipway.oci import Descriptor
from shipway.server import serve, serving


def test_it_says_that_it_is_a_registry(client: Client) -> None:
    for method in ("GET", "HEAD"):
        answer = client.ask(method, "/v2/")
        assert answer.status == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v2/x/y", 404), ("PUT", "/v2/", 405), ("GET", "/v1/_ping", 404)],
)
def test_any_other_path_is_an_error_of_the_same_form(client: Client, method: str, path: str, status: int) -> None:
    assert client.ask(method, path).refusal == (status, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v2/", "GET, HEAD"),
        ("POST", "/v2/a/blobs/uploads", "GET, HEAD, DELETE"),
        ("POST", "/v2/a/blobs/uploads/x", "PATCH, PUT, GET, DELETE"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("DELETE", "/v2/a/tags/list", "GET"),
        ("OPTIONS", "/v2/a/blobs/uploads/b/manifests/c", "GET, HEAD, PUT, DELETE"),
    ],
)
def test_other_methods_are_refused_and_told_which_are_not(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.ask(method, path)
    assert (answer.refusal, answer.headers["allow"]) == ((405, "UNSUPPORTED"), allowed)


@pytest.mark.parametrize("path", ["/v2/A/blobs/uploads/", "/v2/", "/"])
def test_who_asks_first_sends_nothing_that_is_refused(client: Client, path: str) -> None:
    with client.connect() as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")


def test_web_pages_are_kept_out(client: Client) -> None:
    assert client.ask("POST", "/v2/a/blobs/uploads/", origin="http://evil.example").refusal == (403, "DENIED")
    assert client.ask("GET", "/v2/", host="evil.example").refusal == (403, "DENIED")
    assert client.ask("GET", "/v2/", host="localhost:5000").status == 200


class FailingWriter(FileWriter):
    """A writer whose disk is full."""

    def write(self, _data: bytes | memoryview, /) -> None:
        raise NoSpace("the disk is full", where="/secret/place")


class FailingBackend(DirectoryBackend):
    """A backend in trouble: every manifest raises `error`, and nothing can be written."""

    error: Exception

    def manifest(self, _repository: str, _target: str, /) -> tuple[Descriptor, bytes]:
        raise self.error

    def ingest(self) -> FileWriter:
        return FailingWriter(self.blobs, self.ingesting)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unavailable("trouble", where="/secret/place"), 503, "UNAVAILABLE"),
        (Locked("trouble", where="/secret/place"), 409, "DENIED"),
        (Unauthorized("trouble", where="/secret/place"), 403, "DENIED"),
        (ShipwayError("trouble", where="/secret/place"), 500, "UNKNOWN"),
        (RuntimeError("trouble in /secret/place"), 500, "UNKNOWN"),
    ],
)
def test_trouble_is_answered_without_saying_where(tmp_path: Path, error: Exception, status: int, code: str) -> None:
    backend = FailingBackend(tmp_path / "registry")
    backend.error = error
    with serving(backend) as url, Client(url) as client:
        answer = client.ask("GET", "/v2/a/manifests/x")
        assert answer.refusal == (status, code)
        assert b"secret" not in answer.body
        assert client.ask("GET", "/v2/").status == 200


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    backend = FailingBackend(tmp_path / "registry")
    with serving(backend) as url, Client(url) as client:
        path = client.ask("POST", "/v2/a/blobs/uploads/").headers["location"]
        assert client.ask("PATCH", path, b"data").refusal == (507, "UNAVAILABLE")
    assert os.listdir(backend.ingesting) == []


class SlowBackend(DirectoryBackend):
    """A backend that takes its time to make a manifest."""

    go_on: threading.Event

    def manifest(self, repository: str, target: str, /) -> tuple[Descriptor, bytes]:
        assert self.go_on.wait(20)
        return super().manifest(repository, target)


def test_a_manifest_that_takes_long_keeps_nobody_waiting(tmp_path: Path) -> None:
    backend = SlowBackend(tmp_path / "registry")
    backend.go_on = threading.Event()
    with serving(backend) as url, Client(url) as client, ThreadPoolExecutor(24) as pool:
        digest = client.put_blob(b"data")
        slow = [pool.submit(client.ask, "GET", "/v2/a/manifests/x") for _ in range(24)]
        assert client.ask("GET", f"/v2/a/blobs/{digest}").body == b"data"
        assert client.put_blob(b"more")
        assert not any(one.done() for one in slow)
        backend.go_on.set()
        assert {one.result().status for one in slow} == {404}


def test_slow_clients_keep_nobody_waiting(client: Client) -> None:
    digest = client.put_blob(bytes(8 << 20))
    connections = [client.connect() for _ in range(40)]
    for number, connection in enumerate(connections):
        if number % 2:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: ")
        else:  # asks for a blob and does not read it
            connection.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
    assert len(client.ask("GET", f"/v2/a/blobs/{digest}").body) == 8 << 20
    assert client.put_blob(b"data")
    for connection in connections:
        connection.close()


def test_many_clients_upload_the_same_at_once(client: Client, backend: DirectoryBackend) -> None:
    data = bytes(1 << 20)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: client.put_blob(data), range(16))) == {oci.sha256(data)}
    assert os.listdir(backend.blobs) == [oci.sha256(data)]
    assert os.listdir(backend.ingesting) == []


def test_an_address_that_is_taken_is_unavailable_and_named(backend: DirectoryBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"), serving(backend, port=port):
            pytest.fail("the block must not be entered")
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            serve(backend, port=port)


def test_it_stops_with_its_block_even_if_that_fails(backend: DirectoryBackend) -> None:
    with pytest.raises(KeyError), serving(backend) as url:
        raise KeyError(url)
    with serving(backend) as url, Client(url) as client:
        assert client.ask("GET", "/v2/").status == 200
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


SCRIPT = """
import sys
from pathlib import Path
from shipway.server import serve
from support.directory_backend import DirectoryBackend
serve(DirectoryBackend(Path(sys.argv[1])), port=0, ready=lambda url: print(url, flush=True))
print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_lets_requests_end(tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "registry"
    command = [sys.executable, "-c", SCRIPT, str(root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ) as process:
        assert process.stdout is not None
        with Client(process.stdout.readline().decode().strip()) as client:
            location = client.ask("POST", "/v2/a/blobs/uploads/").headers["location"]
            with client.connect() as connection:
                head = f"PUT {location}?digest={oci.sha256(b'data')} HTTP/1.1\r\nHost: {client.host}\r\n"
                connection.sendall(f"{head}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
                assert b" 100 " in connection.recv(4096)  # it has begun
                process.send_signal(number)
                connection.sendall(b"data")
                assert b" 201 " in connection.recv(4096)
        rest, _ = process.communicate(timeout=20)
        assert (rest, process.returncode) == (b"stopped\n", 0)
    assert os.listdir(root / "ingest") == []


# Other programs


def layout(root: Path, tar: bytes) -> tuple[Path, str]:
    """Write an OCI layout with one image of one layer; return it, and the layer's digest."""
    layer = gzip.compress(tar, mtime=0)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [oci.sha256(tar)]}}
    encoded = json.dumps(config).encode()
    manifest, data = manifest_of(blob(encoded, oci.CONFIG), blob(layer, oci.LAYER_GZIP))
    (root / "blobs/sha256").mkdir(parents=True)
    for content in (encoded, layer, data):
        (root / "blobs/sha256" / oci.sha256(content).removeprefix("sha256:")).write_bytes(content)
    named = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size}
    index = {"schemaVersion": 2, "manifests": [named | {"annotations": {"org.opencontainers.image.ref.name": "x"}}]}
    (root / "index.json").write_text(json.dumps(index))
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return root, oci.sha256(layer)


def skopeo(*arguments: str) -> bytes:
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def test_skopeo_copies_both_ways_and_inspects(client: Client, tmp_path: Path) -> None:
    source, digest = layout(tmp_path / "source", bytes(10240))
    image = f"docker://{client.host}/team/image:v1"
    try:
        skopeo("copy", "--dest-tls-verify=false", f"oci:{source}:x", image)
    except FileNotFoundError:
        pytest.skip("skopeo is not installed (Debian package skopeo)")
    skopeo("copy", "--src-tls-verify=false", image, f"oci:{tmp_path}/back:x")
    names = sorted(os.listdir(source / "blobs/sha256"))
    assert sorted(os.listdir(tmp_path / "back/blobs/sha256")) == names
    seen = json.loads(skopeo("inspect", "--tls-verify=false", image))
    assert (seen["Layers"], seen["RepoTags"]) == ([digest], ["v1"])
    copy = f"docker://{client.host}/another/image:v2"
    skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", image, copy)
    assert json.loads(skopeo("inspect", "--tls-verify=false", copy))["Digest"] == seen["Digest"]
    skopeo("delete", "--tls-verify=false", copy)
    assert client.ask("GET", "/v2/another/image/manifests/v2").status == 404
