"""A client that sends exactly what a test says, and shows what comes back."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import msgspec
import urllib3

from shipway import oci


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """The status, and the code of the first error in an OCI error body."""
        error = self.json["errors"][0]
        assert error["message"]
        return self.status, error["code"]


class Client:
    """Speaks to the server at a base URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = urlsplit(url).netloc
        self._pool = urllib3.PoolManager(retries=False, timeout=20)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request; an underscore in a header's name stands for a dash."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        got = self._pool.request(method, self.url + path, body=body, headers=sent, redirect=False)
        return Answer(got.status, got.headers, got.data)

    def put_blob(self, data: bytes, repository: str = "a/b") -> str:
        """Upload a blob in one request and return its digest."""
        digest = oci.sha256(data)
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={quote(digest)}", data)
        assert answer.status == 201, answer
        return digest

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return socket.create_connection((parts.hostname, parts.port), timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()
