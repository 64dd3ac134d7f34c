"""An HTTP server that does what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.certificates import Certificate


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Message


class Exchange(BaseHTTPRequestHandler):
    """One request to be answered, with a few ways to do so."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer properly; an underscore in a header's name stands for a dash."""
        self.begin(status, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int | None = None, **headers: str) -> None:
        """Send a status and headers, promising a body of `length` bytes."""
        self.send_response(status)
        if length is not None:
            self.send_header("content-length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self) -> bytes:
        """Return what came with the request."""
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def shown_certificate(self) -> bool:
        """Whether the client showed a certificate."""
        assert isinstance(self.connection, ssl.SSLSocket)
        return bool(self.connection.getpeercert())

    def hang_up(self, *, rudely: bool = False) -> None:
        """Close the connection; rudely by a reset."""
        self.wfile.flush()
        self.close_connection = True
        if rudely:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server:
    """The server a test talks to."""

    def __init__(self, host: str, asked: list[Asked]) -> None:
        self.host = host
        self.asked = asked

    def paths(self, method: str) -> list[str]:
        """Return the paths of all requests by `method`."""
        return [one.path for one in self.asked if one.method == method]


@contextmanager
def misbehaving(
    behave: Callable[[Exchange], None],
    name: str = "127.0.0.1",
    tls: Certificate | None = None,
    clients: Path | None = None,
) -> Iterator[Server]:
    """Run a server whose every answer is given by `behave`; `name` is what it is called by its users.

    With a certificate it speaks TLS, and asks clients for one of the authority `clients`, which they need not show.
    """
    asked: list[Asked] = []

    class Handler(Exchange):
        def _handle(self) -> None:
            asked.append(Asked(self.command, self.path, self.headers))
            try:
                behave(self)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  names of the base class

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients)
        context.load_cert_chain(tls.cert, tls.key)
        context.verify_mode = ssl.CERT_OPTIONAL if clients else ssl.CERT_NONE
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Server(f"{name}:{server.server_address[1]}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
