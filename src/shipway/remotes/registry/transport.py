"""Single HTTP exchanges: connections, redirects, counting, and what a network's failures mean.

Redirects of GET and HEAD are followed here rather than by urllib3, because credentials must
never reach another host, nor anything go from HTTPS back to HTTP.
"""

from __future__ import annotations

import functools
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead
from importlib.metadata import version
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeout

from shipway.errors import ShipwayError, SizeMismatch, Truncated, Unavailable
from shipway.remotes.registry.errors import Transient
from shipway.remotes.traffic import TrafficCounter

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_COME_BACK = (408, 429, 500, 502, 503, 504)
_DRAIN = 64 << 10
_PIECE = 1 << 20
#: What OpenSSL calls an answer in plain HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
USER_AGENT = f"shipway/{version('shipway')}"

Body = bytes | Callable[[], Iterable[bytes | memoryview]]
"""What a request carries: bytes, or a function that begins the body anew for each attempt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient and how parallel a client is; times in seconds."""

    connect: float = 20.0
    read: float = 60.0
    connections: int = 16
    attempts: int = 5
    wait: float = 0.2
    """Before the second attempt; it doubles with each further one."""
    longest_wait: float = 30.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme and `host:port` of a URL: who an answer comes from."""

    scheme: str
    host: str

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute URL; `Unavailable` for one that is not HTTP."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Unavailable("the server names an address that is not well-formed") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unavailable(f"the server names an address that is not HTTP: {parts.scheme[:20]!r}")
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(parts.scheme, f"{name}:{port or (443 if parts.scheme == 'https' else 80)}")


class Response:
    """An answer whose body has not been read. A context manager; leaving it lets go of the connection."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, origin: Origin, traffic: TrafficCounter) -> None:
        self._raw = raw
        self._traffic = traffic
        self.origin = origin
        self.status = raw.status
        self.headers = raw.headers

    @property
    def length(self) -> int | None:
        """The body's size in bytes as the server states it, None if it does not."""
        stated = self.headers.get("content-length", "")
        return int(stated) if stated.isascii() and stated.isdecimal() else None

    def read(self, size: int) -> bytes:
        """Return what is there of the next `size` bytes, none at the end. Raises `Truncated`, `Transient`.

        Taking what is there costs half of what filling up to `size` does, and loses nothing when a connection breaks.
        """
        try:
            data = self._raw.read1(size)
        except (HTTPError, OSError) as error:
            if isinstance(_innermost(error), IncompleteRead):
                raise Truncated("the server closed the connection early", where=self.origin.host) from error
            raise _failure(error, self.origin) from error
        self._traffic.add(received=len(data))
        return data

    def body(self, limit: int) -> bytes:
        """Return the whole body, `SizeMismatch` if it is more than `limit` bytes."""
        pieces = []
        left = limit + 1
        while left and (piece := self.read(min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise SizeMismatch(f"the server's answer is longer than {limit} bytes", where=self.origin.host)
        return b"".join(pieces)

    def excerpt(self, limit: int) -> bytes:
        """Return as much of the body as is to be had, at most `limit` bytes; for messages."""
        data = b""
        try:
            while len(data) < limit and (piece := self.read(limit - len(data))):
                data += piece
        except ShipwayError:
            pass  # what came is enough
        return data

    def close(self) -> None:
        """Let go of the connection: for the next request if little is left on it, else for good."""
        if self.length is not None and self.length <= _DRAIN:
            self.excerpt(_DRAIN)
        self._raw.close()
        self._raw.release_conn()

    def abort(self) -> None:
        """Close the connection, whatever is still to come on it."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()


class Transport:
    """Sends requests over pooled connections. Thread-safe."""

    def __init__(self, limits: Limits, traffic: TrafficCounter) -> None:
        self._limits = limits
        self._traffic = traffic
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None, authorization: str = ""
    ) -> Response:
        """Return the answer to one request, whatever its status; `authorization` goes to the host of `url` alone.

        Raises `Transient` for what may be gone in a moment, `Unavailable` for what will not.
        """
        first = Origin.of(url)
        for _ in range(MAX_REDIRECTS + 1):
            origin = Origin.of(url)
            secret = {"authorization": authorization} if authorization and origin == first else {}
            response = self._exchange(method, url, origin, {**headers, **secret}, body)
            location = response.headers.get("location")
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS or not location:
                return response
            response.close()
            url = resolve(url, location)
        raise Unavailable(f"redirects more than {MAX_REDIRECTS} times", where=first.host)

    def _exchange(
        self, method: str, url: str, origin: Origin, headers: Mapping[str, str], body: Body | None
    ) -> Response:
        payload = None if body is None else _Payload(body, self._traffic)
        self._traffic.add(requests=1)
        try:
            raw = self._pool(origin.scheme).urlopen(
                method,
                url,
                redirect=False,
                body=payload,
                headers={"user-agent": USER_AGENT, "accept-encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            if payload is not None and payload.failure is not None:
                raise payload.failure from None
            raise _failure(error, origin) from error
        return Response(raw, origin, self._traffic)

    def _pool(self, scheme: str) -> urllib3.PoolManager:
        with self._lock:
            pool = self._pools.get(scheme)
            if pool is None:
                limits = self._limits
                pool = self._pools[scheme] = urllib3.PoolManager(
                    num_pools=8,
                    maxsize=limits.connections,
                    timeout=urllib3.Timeout(connect=limits.connect, read=limits.read),
                    retries=False,
                    ssl_context=_tls() if scheme == "https" else None,
                )
            return pool

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()


class _Payload:
    """Yields a request's body, counts it, and remembers if it was the body that failed, not the network."""

    def __init__(self, body: Body, traffic: TrafficCounter) -> None:
        self._body = body
        self._traffic = traffic
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[bytes | memoryview]:
        try:
            for piece in (self._body,) if isinstance(self._body, bytes) else self._body():
                yield piece
                self._traffic.add(sent=len(piece))
        except Exception as error:
            self.failure = error
            raise


def resolve(url: str, location: str) -> str:
    """Return where a Location header, found at `url`, leads to; `Unavailable` if back from HTTPS to HTTP."""
    here = Origin.of(url)
    try:
        target = urljoin(url, location)
    except ValueError as error:
        raise Unavailable("leads to an address that is not well-formed", where=here.host) from error
    there = Origin.of(target)
    if here.scheme == "https" and there.scheme != "https":
        raise Unavailable(f"leads from HTTPS to plain HTTP at {there.host}", where=here.host)
    return target


def overload(response: Response) -> Transient | None:
    """Return the error for an answer that asks to come back later, None for any other."""
    if response.status not in _COME_BACK:
        return None
    return Transient(f"the server answered {response.status}", where=response.origin.host, after=_retry_after(response))


def _retry_after(response: Response) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, None if there is none (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


@functools.cache
def _tls() -> ssl.SSLContext:
    """The context of all connections: certificates are verified. Made once, since loading the roots takes 15 ms."""
    return ssl.create_default_context()


def _failure(error: Exception, origin: Origin) -> ShipwayError:
    """Return the error for what urllib3 raised: `Transient` only if trying again may help."""
    where = origin.host
    if isinstance(error, NameResolutionError):
        return Unavailable("no such host", where=where)
    if isinstance(error, NewConnectionError):
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "no connection"
        return Unavailable(reason.lower(), where=where, todo="is the registry running there?")
    if isinstance(error, LocationParseError):
        return Unavailable("not a well-formed address", where=where)
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return Unavailable(f"its certificate is not to be trusted ({inner.verify_message})", where=where)
    if isinstance(inner, ssl.SSLError) and inner.reason in _NOT_TLS:
        return Unavailable("does not speak TLS", where=where, todo="write oci+http:// for plain HTTP")
    what = "does not answer in time" if isinstance(error, HTTPTimeout) else "the connection broke"
    return Transient(f"{what} ({type(inner).__name__})", where=where)


def _innermost(error: Exception) -> Exception:
    """Return the socket's own error, which urllib3 wraps as the last argument of others."""
    inner = error.args[-1] if error.args else None
    return _innermost(inner) if isinstance(inner, Exception) else error
