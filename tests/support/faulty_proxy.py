"""A reverse proxy that breaks answers in chosen ways, and counts what passes through.

It stands between a client and a real server on loopback. Each request is looked up among the faults that were set; the
first one that fits, and has not been used up, decides what becomes of the answer. Without faults it passes
everything on unchanged, and serves to count requests and bytes from outside.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from support.certificates import Certificate

Kind = Literal[
    "cut",
    "reset",
    "stall",
    "corrupt",
    "shorten",
    "lengthen",
    "slow",
    "delay",
    "status",
    "refuse ranges",
    "cut request",
    "stall request",
]
_PIECE = 1 << 16
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
BLOBS = r"/blobs/sha256:"
MANIFESTS = "/manifests/"


@dataclass
class Fault:
    """What to do to requests whose method and path are like the patterns, the first `times` of them.

    The kinds: `cut` the answer's body after `at` bytes, or `reset` the connection there; `stall` there; `corrupt` the
    byte there; promise `shorten`ed or `lengthen`ed bodies; `slow` bodies down to 13 MB a second;
    `delay` every second answer, so that those of concurrent requests come out of order; answer with `status`, and
    `retry_after` if there is one; `refuse ranges`, that is answer them with everything; `cut request` closes the
    connection in the middle of the request's body, `stall request` takes no more of it there.
    """

    kind: Kind
    path: str = ""
    method: str = ""
    times: float = 1
    at: int = 0
    status: int = 503
    retry_after: str = "0"
    seen: int = 0

    def fits(self, method: str, path: str) -> bool:
        """Whether a request is one of those, whatever became of earlier ones."""
        return re.search(self.path, path) is not None and re.search(self.method, method) is not None


@dataclass(frozen=True)
class Passed:
    """One exchange: what was asked, the status of the answer, and the bytes of both bodies that went through."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int
    received: int


@dataclass
class FaultyProxy:
    """Where it listens, what it does wrong, and what went through."""

    host: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    struck: int = 0
    """How many requests met a fault."""
    stalled: int = 0
    """How many answers have come to where they stall."""
    _passed: list[Passed] = field(default_factory=list)
    _underway: int = 0
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def set(self, *faults: Fault) -> None:
        """Replace all faults, and forget what went through."""
        with self._lock:
            self._settle()
            self.faults, self._passed, self.struck, self.stalled = list(faults), [], 0, 0

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Count an exchange as being under way."""
        with self._lock:
            self._underway += 1
        try:
            yield
        finally:
            with self._lock:
                self._underway -= 1
                self._lock.notify_all()

    def _settle(self) -> None:
        """Wait for exchanges whose client has all it wants, but that are not noted yet; not for those that stall."""
        self._lock.wait_for(lambda: not self._underway, timeout=1)

    @property
    def passed(self) -> list[Passed]:
        """What went through since the faults were set."""
        with self._lock:
            self._settle()
            return list(self._passed)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that a request meets."""
        with self._lock:
            for fault in self.faults:
                if fault.fits(method, path) and fault.seen < fault.times:
                    fault.seen += 1
                    self.struck += 1
                    return fault
        return None

    def note(self, passed: Passed) -> None:
        """Remember an exchange."""
        with self._lock:
            self._passed.append(passed)

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return len(self.passed)

    @property
    def received(self) -> int:
        """Bytes of bodies that went to clients."""
        return sum(one.received for one in self.passed)

    @property
    def sent(self) -> int:
        """Bytes of bodies that came from clients."""
        return sum(one.sent for one in self.passed)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    proxy: FaultyProxy

    def _handle(self) -> None:
        with self.proxy.handling():
            self._exchange()

    def _exchange(self) -> None:
        fault = self.proxy.take(self.command, self.path)
        with suppress(OSError, ssl.SSLError):
            if fault is not None and fault.kind == "cut request":
                self.rfile.read(min(fault.at, int(self.headers.get("content-length") or 0)))
                self._hang_up(rudely=True)
                return
            if fault is not None and fault.kind == "stall request":
                self.rfile.read(min(fault.at, int(self.headers.get("content-length") or 0)))
                self.proxy.stalled += 1
                hung_up = select.poll()
                hung_up.register(self.connection, select.POLLRDHUP)
                hung_up.poll()
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if fault is not None and fault.kind == "status":
                self._refuse(fault, len(body))
            else:
                self._pass_on(fault, body)
            return
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  names of the base class

    def _refuse(self, fault: Fault, sent: int) -> None:
        self.send_response(fault.status)
        self.send_header("retry-after", fault.retry_after)
        self.send_header("content-length", "0")
        self.end_headers()
        self.proxy.note(Passed(self.command, self.path, self.headers.get("range"), fault.status, sent, 0))

    def _pass_on(self, fault: Fault | None, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if fault is not None and fault.kind == "refuse ranges":
            headers = {name: value for name, value in headers.items() if name.lower() != "range"}
        if fault is not None and fault.kind == "delay" and fault.seen % 2:
            time.sleep(0.03)
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=20)
        try:
            headers["content-length"] = str(len(body))
            connection.request(self.command, self.path, body or None, headers)
            with connection.getresponse() as answer:
                self._answer(answer, fault, len(body))
        finally:
            connection.close()

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault | None, sent: int) -> None:
        length = answer.getheader("content-length")
        promised = int(length) if length is not None else None
        if fault is not None and promised is not None and fault.kind in ("shorten", "lengthen"):
            promised += -1 if fault.kind == "shorten" else 1
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if promised is None:
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(max(promised, 0)))
        self.end_headers()
        received = 0
        try:
            for piece in self._pieces(answer, fault):
                self.wfile.write(piece)
                received += len(piece)
        finally:
            asked = self.headers.get("range")
            self.proxy.note(Passed(self.command, self.path, asked, answer.status, sent, received))
        if fault is not None and fault.kind in ("cut", "reset", "shorten", "lengthen"):
            self._hang_up(rudely=fault.kind == "reset")

    def _pieces(self, answer: http.client.HTTPResponse, fault: Fault | None) -> Iterator[bytes]:
        position = 0
        while piece := answer.read(_PIECE):
            if fault is not None and fault.kind in ("cut", "reset", "stall") and position + len(piece) > fault.at:
                yield piece[: fault.at - position]
                if fault.kind == "stall":
                    self.wfile.flush()
                    self.proxy.stalled += 1
                    self.rfile.read(1)  # until the client has had enough
                return
            if fault is not None and fault.kind == "corrupt" and position <= fault.at < position + len(piece):
                changed = bytearray(piece)
                changed[fault.at - position] ^= 0x55
                piece = bytes(changed)
            if fault is not None and fault.kind == "slow":
                time.sleep(_PIECE / 13e6)
            yield piece
            position += len(piece)

    def _hang_up(self, *, rudely: bool) -> None:
        """Close the connection; rudely by a reset. Of TLS there is no proper end in any case."""
        self.wfile.flush()
        self.close_connection = True
        if rudely:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_proxy(upstream: str, faults: Iterable[Fault] = (), tls: Certificate | None = None) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the server at `upstream` (`host:port`), with a certificate over TLS."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    Handler.proxy = FaultyProxy(f"127.0.0.1:{server.server_address[1]}", upstream, list(faults))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Handler.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
