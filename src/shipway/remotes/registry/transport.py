"""Single HTTP exchanges: connections, redirects, counting.

Redirects of GET and HEAD are followed here rather than by urllib3, because credentials must
never reach another host, nor anything go from HTTPS back to HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from shipway import stopping
from shipway.errors import ShipwayError, SizeMismatch, Truncated, Unavailable
from shipway.remotes.registry.errors import Transient
from shipway.remotes.registry.failures import failure, innermost
from shipway.remotes.registry.pace import POOLS
from shipway.remotes.registry.proxies import Proxy, proxy_for
from shipway.remotes.registry.trust import Trust
from shipway.remotes.traffic import TrafficCounter

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_COME_BACK = (408, 429, 500, 502, 503, 504)
_PROXY_WANTS_CREDENTIALS = 407
_DRAIN = 64 << 10
_PIECE = 1 << 20
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

    @property
    def name(self) -> str:
        """The host without its port."""
        return self.host.rpartition(":")[0]


class Response:
    """An answer whose body has not been read. A context manager; leaving it lets go of the connection."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str, origin: Origin, traffic: TrafficCounter) -> None:
        self._raw = raw
        self._traffic = traffic
        self.url = url
        """Where it came from, after redirects."""
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
            stopping.check()
            if isinstance(innermost(error), IncompleteRead):
                raise Truncated("the server closed the connection early", where=self.origin.host) from error
            raise failure(error, self.origin.host) from error
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

    def __init__(self, limits: Limits, traffic: TrafficCounter, home: Origin, trust: Trust) -> None:
        """Send for a registry at `home`, which `trust` is about."""
        self._limits = limits
        self._traffic = traffic
        self._home = home
        self._trust = trust
        self._lock = threading.Lock()
        self._pools: dict[tuple[Proxy | None, bool | None], urllib3.PoolManager] = {}

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
        stopping.check()
        self._traffic.add(requests=1)
        pool = self._pool(origin)
        try:
            raw = pool.urlopen(
                method,
                url,
                redirect=False,
                body=payload,
                headers={"user-agent": USER_AGENT, "accept-encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            stopping.check()
            if payload is not None and payload.failure is not None:
                raise payload.failure from None
            raise failure(error, origin.host) from error
        if raw.status == _PROXY_WANTS_CREDENTIALS:
            raw.close()
            raise Unavailable("the proxy wants other credentials", where=origin.host, todo="see $HTTP_PROXY")
        return Response(raw, url, origin, self._traffic)

    def _pool(self, origin: Origin) -> urllib3.PoolManager:
        kind = (proxy_for(origin.scheme, origin.host), self._kind_of_tls(origin))
        with self._lock:
            pool = self._pools.get(kind)
            if pool is None:
                pool = self._pools[kind] = self._make_pool(*kind)
            return pool

    def _kind_of_tls(self, origin: Origin) -> bool | None:
        """Return None for plain HTTP, else whether it is the registry's own host that is spoken to."""
        return origin.name == self._home.name if origin.scheme == "https" else None

    def _make_pool(self, proxy: Proxy | None, at_home: bool | None) -> urllib3.PoolManager:
        limits = self._limits
        options: dict[str, Any] = {
            "num_pools": 8,
            "maxsize": limits.connections,
            "timeout": urllib3.Timeout(connect=limits.connect, read=limits.read),
            "retries": False,
            "ssl_context": None if at_home is None else self._trust.context(at_home=at_home),
        }
        if proxy is None:
            pool = urllib3.PoolManager(**options)
        else:
            pool = urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, **options)
        pool.pool_classes_by_scheme = POOLS
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
