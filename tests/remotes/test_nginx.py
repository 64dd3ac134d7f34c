"""A registry behind nginx, as many are: blobs from elsewhere, without ranges, throttled, and with nobody behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nginx import nginx
from support.registry import docker_registry
from support.trees import Seen, describe, free_port

from shipway import Cache, Config, LocalImmutableRef, RegistrySettings, Unavailable

# `{0}` to `{6}` are where it listens: see `front`.
SERVERS = """
limit_req_zone $server_port zone=slow:64k rate=20r/s;
server {{ listen {0}; location / {{ {pass_on} }} }}

# A password opens it. Blobs are redirected to "object storage": files on another port, where a password is an error.
server {{
    listen {1};
    auth_basic registry;
    auth_basic_user_file {passwords};
    location ~ ^/v2/.*/blobs/sha256:(..)(.*)$ {{
        if ($request_method = GET) {{ return 307 http://{2}/$1/$1$2/data?signed=yes; }}
        {pass_on}
    }}
    location / {{ {pass_on} }}
}}
server {{ listen {2}; root {blobs}; if ($http_authorization) {{ return 400; }} }}

# nginx sends blobs itself, as it does for whoever answers with X-Accel-Redirect.
server {{
    listen {3};
    location ~ ^/v2/.*/blobs/sha256: {{
        if ($request_method = GET) {{ rewrite ^/v2/.*/blobs/sha256:(..)(.*)$ /files/$1/$1$2/data last; }}
        {pass_on}
    }}
    location /files/ {{ internal; alias {blobs}/; }}
    location / {{ {pass_on} }}
}}

# Ranges are ignored.
server {{ listen {4}; location / {{ proxy_set_header Range ""; {pass_on} }} }}

# Twenty requests a second and no more; the answer is 429.
server {{ listen {5}; limit_req zone=slow burst=2 nodelay; limit_req_status 429; location / {{ {pass_on} }} }}

# Nobody is behind it: 502.
server {{ listen {6}; location / {{ proxy_pass http://{dead}; }} }}
"""
KINDS = ("plain", "redirected", "storage", "internal", "without ranges", "throttled", "dead")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield where each kind of front is, and under `behind` the registry itself."""
    root = tmp_path_factory.mktemp("behind")
    with docker_registry(root) as host:
        pass_on = f"proxy_pass http://{host}; proxy_set_header Host $http_host; proxy_request_buffering off;"
        servers = SERVERS.replace("{pass_on}", pass_on).replace("{dead}", f"127.0.0.1:{free_port()}")
        servers = servers.replace("{blobs}", f"{root}/data/docker/registry/v2/blobs/sha256")
        passwords = root / "passwords"
        passwords.write_text("alice:{PLAIN}secret\n")
        servers = servers.replace("{passwords}", str(passwords))
        servers = servers.replace("{{", "{").replace("}}", "}")
        with nginx(tmp_path_factory.mktemp("nginx"), servers, len(KINDS)) as hosts:
            yield dict(zip(KINDS, hosts, strict=True)) | {"behind": host}


@pytest.fixture
def cache(front: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """Yield a store that does not wait for long, and knows the password."""
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {front["redirected"]: {"username": "alice", "password": "secret"}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
    patience = {front["dead"]: RegistrySettings(attempts=2), front["throttled"]: RegistrySettings(attempts=12)}
    with Cache.open(config=Config(root=tmp_path / "store", driver="native", registry=patience)) as cache:
        yield cache


@pytest.fixture
def made(tmp_path: Path) -> Iterator[LocalImmutableRef]:
    """Yield a ref of forty files in a store of its own."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"file{number:02}").write_bytes(os.urandom(100_000))
    with Cache.open(tmp_path / "maker", driver="native") as maker, maker.import_tree(tree) as ref:
        yield ref


def shown(ref: LocalImmutableRef) -> dict[str, Seen]:
    with ref.mounted() as path:
        return describe(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "redirected", "internal", "without ranges", "throttled"])
def test_what_is_pushed_through_it_comes_back_through_it(
    front: dict[str, str], cache: Cache, made: LocalImmutableRef, tmp_path: Path, kind: str
) -> None:
    reference = f"oci://{front[kind]}/{kind.replace(' ', '-')}:x"
    made.push(reference)
    with cache.remote(reference) as remote:
        done = remote.extract(tmp_path / "out", "file07")
        assert (tmp_path / "out/file07").read_bytes() == (tmp_path / "tree/file07").read_bytes()
        if kind == "without ranges":
            assert remote.size() <= done.traffic.received < remote.size() + 100_000
            again = remote.extract(tmp_path / "more", "file08", "file30")
            assert again.traffic.received == 0  # all of it is here, until the ref is let go
        elif kind != "throttled":
            assert done.traffic.received < 300_000
            assert done.traffic.requests == (4 if kind == "redirected" else 2)
        with remote.pull() as pulled:
            assert shown(pulled) == shown(made)
    assert cache.verify() == []


def test_nobody_behind_it_is_unavailable(front: dict[str, str], cache: Cache) -> None:
    with pytest.raises(Unavailable, match=f"{front['dead']}.*502"):
        cache.remote(f"oci://{front['dead']}/x/y:z")
