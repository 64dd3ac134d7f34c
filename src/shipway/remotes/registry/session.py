"""A conversation with one registry: requests with authentication, retries and typed errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import tenacity

from shipway import stopping
from shipway.remotes.registry.auth import Authenticator, Scope
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.errors import MAX_ERROR_BODY, Transient, refusal
from shipway.remotes.registry.failures import NotTLS
from shipway.remotes.registry.transport import Body, Limits, Origin, Response, Transport, overload
from shipway.remotes.registry.trust import Trust
from shipway.remotes.traffic import TrafficCounter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    """All there is to one request; see `Session.request`."""

    method: str
    url: str
    scope: Scope
    accept: Collection[int]
    where: str
    headers: Mapping[str, str]
    body: Body | None


class Session:
    """Speaks to the registry at `base`; thread-safe."""

    def __init__(
        self,
        base: str,
        host: str,
        find: Callable[[], Credentials | None],
        limits: Limits,
        trust: Trust = Trust(),  # noqa: B008  frozen
    ) -> None:
        """Speak to the URL `base` of the registry called `host` in messages; `find` looks up its credentials."""
        self.host = host
        self.limits = limits
        self.refuses_ranges: set[Origin] = set()
        """Who has answered a range with all of a blob."""
        self.traffic = TrafficCounter()
        self._find = find
        self._may_be_plain = trust.insecure
        self._transport = Transport(limits, self.traffic, Origin.of(base), trust)
        self._first_base = base
        self._set_base(base)

    def _set_base(self, base: str) -> None:
        self._base = base
        self._origin = Origin.of(base)
        self._auth = Authenticator(base, self.host, self._transport, self._find)

    def url(self, path: str) -> str:
        """Return the URL of a path below the registry's `/v2/`."""
        return f"{self._base}/v2/{path}"

    def is_here(self, url: str) -> bool:
        """Whether a URL is the registry's own."""
        return Origin.of(url) == self._origin

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: Scope,
        accept: Collection[int],
        where: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        retry: bool = True,
    ) -> Response:
        """Return the answer if its status is among `accept`; else raise what it means.

        `where` names the thing that is asked for, in messages. With `retry` the request is
        repeated after failures that may pass, so it has to be one that can be repeated.
        """
        request = _Request(method, url, scope, accept, where, headers or {}, body)
        return self.retrying(lambda: self._once(request)) if retry else self._once(request)

    def retrying(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, calling again, after growing pauses, while it raises `Transient`."""
        limits = self.limits
        growing = tenacity.wait_exponential(limits.wait, limits.longest_wait) + tenacity.wait_random(0, limits.wait / 2)

        def pause(state: tenacity.RetryCallState) -> float:
            asked = _asked(state)
            return growing(state) if asked is None else asked

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=tenacity.stop_after_attempt(limits.attempts),
            wait=pause,
            sleep=stopping.sleep,
            reraise=True,
        )(call)

    def _may_pass(self, error: BaseException) -> bool:
        """Whether to try again."""
        return isinstance(error, Transient) and (error.after is None or error.after <= self.limits.longest_wait)

    def _once(self, request: _Request) -> Response:
        try:
            return self._answered(self._as_spoken(request))
        except NotTLS as error:
            first = Origin.of(self._first_base)
            if not self._may_be_plain or Origin.of(request.url) != first or error.where != first.host:
                raise
        # Its certificate would not have been looked at either, and nothing was sent to it yet.
        if self._base == self._first_base:
            self._set_base("http" + self._base.removeprefix("https"))
        return self._answered(self._as_spoken(request))

    def _as_spoken(self, request: _Request) -> _Request:
        """Return a request to the registry by the scheme that it turned out to speak."""
        if self._base != self._first_base and request.url.startswith(f"{self._first_base}/"):
            return replace(request, url=self._base + request.url.removeprefix(self._first_base))
        return request

    def _answered(self, request: _Request) -> Response:
        own = self.is_here(request.url)
        authorization = self._auth.header(request.scope) if own else ""
        response = self._send(request, authorization)
        if response.status == 401 and own and response.origin == self._origin:  # noqa: PLR2004  HTTP's number
            challenges = response.headers.getlist("www-authenticate")
            response.close()
            authorization = self._auth.answer(challenges, request.scope, authorization)
            response = self._send(request, authorization)
            if response.status == 401:  # noqa: PLR2004  HTTP's number
                response.close()
                raise self._auth.refused(request.scope)
        if response.status in request.accept:
            return response
        with response:
            if error := overload(response):
                raise error
            answer = response.excerpt(MAX_ERROR_BODY)
            raise refusal(
                response.status,
                answer,
                where=request.where,
                host=self.host,
                authorization=authorization,
                plain=response.origin.scheme == "http",
            )

    def _send(self, request: _Request, authorization: str) -> Response:
        return self._transport.send(request.method, request.url, request.headers, request.body, authorization)

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()


def _asked(state: tenacity.RetryCallState) -> float | None:
    """Return the seconds that the server asked to wait, None if it did not."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error.after if isinstance(error, Transient) else None
