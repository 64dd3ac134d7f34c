"""A token service as registries know it: sells signed tokens for scopes, by GET and by OAuth 2's POST."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class TokenRequest:
    """What somebody asked for, and with which Authorization header."""

    method: str
    scopes: tuple[str, ...]
    authorization: str


class TokenService:
    """Signs tokens with a key of its own; `asked` is who asked for what."""

    issuer = "shipway-test-issuer"
    audience = "shipway-test-registry"
    identity_token = "an-identity-token"
    lifetime = 300

    def __init__(self, root: Path, user: str, password: str) -> None:
        self._key = root / "key.pem"
        self.certificate = root / "cert.pem"
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[TokenRequest] = []
        self.url = ""
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
                *("-keyout", str(self._key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Answer requests from a thread for as long as the block lasts."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                scopes = [part for scope in query.get("scope", []) for part in scope.split()]
                self._answer(scopes, self.headers.get("authorization", ""))

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                known = form["refresh_token"] == [service.identity_token]
                scopes = [part for scope in form.get("scope", []) for part in scope.split()]
                self._answer(scopes, service._basic if known else "wrong")

            def _answer(self, scopes: list[str], authorization: str) -> None:
                service.asked.append(TokenRequest(self.command, tuple(scopes), authorization))
                allowed = authorization in ("", service._basic)
                body = json.dumps(service.token(scopes, known=bool(authorization)) if allowed else {}).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def token(self, scopes: list[str], *, known: bool) -> dict[str, Any]:
        """Return the answer that sells a token for as much of `scopes` as is allowed."""
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = [
                action for action in actions.split(",") if known or (name.startswith("public/") and action == "pull")
            ]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "somebody",
            "aud": self.audience,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        return {"token": self._sign(claims), "expires_in": self.lifetime}

    def _sign(self, claims: dict[str, Any]) -> str:
        chain = re.sub(r"-----[A-Z ]+-----|\s", "", self.certificate.read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=text.encode(),
            capture_output=True,
            check=True,
        )
        return f"{text}.{_base64(signed.stdout)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
