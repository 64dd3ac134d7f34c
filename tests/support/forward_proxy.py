"""A forward proxy: CONNECT for TLS, absolute URLs for plain HTTP, with names that only it can resolve."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class ForwardProxy:
    """Where it listens, and what it was asked for."""

    def __init__(self, host: str, asked: list[str]) -> None:
        self.host = host
        self.asked = asked


@contextmanager
def forward_proxy(names: Mapping[str, str], password: str = "") -> Iterator[ForwardProxy]:
    """Run a proxy that takes `names` (`host:port`) to other addresses; with `password` it wants `user:password`."""
    asked: list[str] = []
    wanted = f"Basic {base64.b64encode(password.encode()).decode()}" if password else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def _let_in(self) -> bool:
            asked.append(f"{self.command} {self.path}")
            if wanted and self.headers.get("proxy-authorization") != wanted:
                self.send_response(407)
                self.send_header("content-length", "0")
                self.end_headers()
                return False
            return True

        def do_CONNECT(self) -> None:
            if not self._let_in():
                return
            if self.path not in names:
                self.send_error(502)
                return
            host, _, port = names[self.path].rpartition(":")
            with socket.create_connection((host, int(port)), timeout=20) as there:
                self.send_response(200)
                self.end_headers()
                self.wfile.flush()
                back = threading.Thread(target=_pipe, args=[there, self.connection])
                back.start()
                _pipe(self.connection, there)
                back.join()
            self.close_connection = True

        def do_GET(self) -> None:
            if not self._let_in():
                return
            parts = urlsplit(self.path)
            with closing(http.client.HTTPConnection(names[parts.netloc], timeout=20)) as connection:
                connection.request(self.command, parts.path, headers=dict(self.headers))
                with connection.getresponse() as got:
                    body = got.read()
            self.send_response(got.status)
            for name, value in got.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield ForwardProxy(f"127.0.0.1:{server.server_address[1]}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
