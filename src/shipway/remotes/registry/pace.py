"""Connections that notice when the other side stalls, or sends so little that it might as well.

A socket's own timeout is for each read, so a server that sends a byte now and then holds a reader
forever. Here the bytes of an answer are measured against the time spent waiting for them: time
that the reader spends elsewhere does not count, nor does waiting for the answer to begin, which has that timeout.

Whatever waits here, for a connection or on one, ends when the work that it is for does (`shipway.stopping`).
"""

from __future__ import annotations

import io
import socket
import time
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any, BinaryIO, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from shipway.stopping import Waiting, apart

SLOWEST = 1024
"""Bytes a second that must come of an answer, on average over each stretch of waiting as long as the read timeout."""


class _PacedReader(io.RawIOBase):
    """What comes from a socket; raises `TimeoutError` when it comes too slowly."""

    def __init__(self, raw: socket.SocketIO, window: float | None) -> None:
        self._raw = raw
        self._window = window
        self._waiting = Waiting(raw.fileno())
        self._begun = False
        self._waited = 0.0
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        start = time.monotonic()
        with self._waiting:
            count = self._raw.readinto(buffer)
        if self._begun and count and self._window is not None:
            self._waited += time.monotonic() - start
            self._came += count
            if self._waited >= self._window:
                if self._came < SLOWEST * self._window:
                    raise TimeoutError("stalled")
                self._waited, self._came = 0.0, 0
        self._begun = True
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedSocket:
    """What an answer sees of a socket: a file to read from."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> BinaryIO:
        assert mode == "rb"
        raw = self._sock.makefile("rb", buffering=0)
        return io.BufferedReader(_PacedReader(raw, self._sock.gettimeout()))


class _PacedAnswer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(cast(socket.socket, _PacedSocket(sock)), *args, **kwargs)


class _PacedHTTP(HTTPConnection):
    response_class = _PacedAnswer

    def _new_conn(self) -> socket.socket:
        return apart(super()._new_conn, socket.socket.close)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        with Waiting(self.sock.fileno()):
            super().send(data)


class _PacedHTTPS(_PacedHTTP, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        with ExitStack() as otherwise:
            sock = otherwise.enter_context(super()._new_conn())
            # The TLS handshake takes the socket over before it is done: this is another handle of the same.
            handle = self._connecting.enter_context(sock.dup())
            self._connecting.enter_context(Waiting(handle.fileno()))
            otherwise.pop_all()
        return sock

    def connect(self) -> None:
        with ExitStack() as self._connecting:
            super().connect()
        self.is_verified = True  # else each connection to a host that was said to be insecure warns of that


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _PacedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PacedHTTPS


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
"""The connection pools for a `urllib3.PoolManager`, by scheme."""
