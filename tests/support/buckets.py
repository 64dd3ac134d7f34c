"""Buckets on loopback: moto's S3 server, which also speaks what GCS shares with S3, and azurite."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

BUCKET = "shipway"
_AZURITE = "azurite@3.37.0"
_AZURE_ACCOUNT = "devstoreaccount1"
#: The key that every azurite has; it is in its manual.
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_SOMEBODY = "AWS4-HMAC-SHA256 Credential=somebody/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_START = 30.0


@dataclass
class S3Server:
    """A running moto server and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)

    def requests(self) -> list[str]:
        """Return method, path and query of all requests."""
        return [f"{one['REQUEST_METHOD']} {one['PATH_INFO']}?{one.get('QUERY_STRING', '')}" for one in self.asked]

    def unfinished_uploads(self) -> int:
        """Return how many uploads in parts were neither completed nor aborted."""
        with urllib.request.urlopen(f"{self.url}/{BUCKET}?uploads") as answer:
            return int(answer.read().count(b"<Upload>"))

    def sent(self) -> int:
        """Return the bytes of all requests' bodies."""
        return sum(int(one.get("CONTENT_LENGTH") or 0) for one in self.asked)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run moto's S3 server, with the bucket `BUCKET`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto[server] is not installed")
        serving = pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    asked: list[dict[str, Any]] = []

    def remembering(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        asked.append(environ)
        if not environ.get("HTTP_AUTHORIZATION", "").startswith("AWS"):
            environ["HTTP_AUTHORIZATION"] = _SOMEBODY  # Google's way, of which moto knows nothing
        answer: Iterable[bytes] = app(environ, start)
        return answer

    server = serving.make_server("127.0.0.1", 0, remembering, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield S3Server(url, asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3_environment() -> dict[str, str]:
    """Return what the environment must hold to be let in."""
    return {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "not-told", "AWS_REGION": "us-east-1"}


def gcs_environment(root: Path, url: str) -> dict[str, str]:
    """Return what the environment must hold to use `url` as Google's service."""
    account = root / "account.json"
    nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
    account.write_text(json.dumps({"gcs_base_url": url, "disable_oauth": True, **nobody}))
    return {"GOOGLE_SERVICE_ACCOUNT": str(account)}


def azure_environment() -> dict[str, str]:
    """Return what the environment must hold to be let in to azurite."""
    return {"AZURE_STORAGE_ACCOUNT_NAME": _AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _AZURE_KEY}


@contextmanager
def azurite(root: Path) -> Iterator[str]:
    """Run azurite, with the container `BUCKET`; yields its endpoint."""
    program = _install_azurite()
    log = root / "log"
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"]
    with log.open("wb") as output:
        process = subprocess.Popen([program, *options, "--disableTelemetry"], stdout=output, stderr=output, cwd=root)
    try:
        url = _listening(process, log) + f"/{_AZURE_ACCOUNT}"
        _make_container(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _install_azurite() -> str:
    """Return azurite's program; it is installed once into the user's cache directory."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed, which azurite needs")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shipway-tests" / _AZURITE
    program = cache / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), _AZURITE]
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode:
            pytest.skip(f"azurite cannot be installed with npm: {done.stderr.strip()[-200:]}")
    return str(program)


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listens on (http://127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"azurite did not start:\n{log.read_text()[-2000:]}")


def _make_container(url: str) -> None:
    """Make the container, by a request signed with the account's key."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    resource = f"/{_AZURE_ACCOUNT}/{_AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + signed + resource
    digest = hmac.new(base64.b64decode(_AZURE_KEY), text.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {_AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(f"{url}/{BUCKET}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request).close()
