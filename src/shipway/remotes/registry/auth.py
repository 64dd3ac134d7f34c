"""Authentication to a registry: none, Basic (RFC 7617), or Bearer tokens.

Tokens follow the distribution project's token specification: a registry's 401
names a *realm* that sells tokens for *scopes*, against credentials or, for what is public, none.
Nothing is looked up or sent before a registry asks for it.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from shipway.errors import Unauthorized, Unavailable
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.errors import MAX_ERROR_BODY, refusal
from shipway.remotes.registry.transport import Origin, Response, Transport, overload, resolve

Scope = frozenset[str]
"""What a token is for: `repository:NAME:pull` and the like."""

_LIFETIME = 60.0
"""Seconds a token lives when its seller does not say; a password is kept in mind as long."""
_MARGIN = 10.0
"""Seconds before its end when a token is no longer used."""
_MAX_TOKEN = 1 << 20
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CHALLENGE_PART = re.compile(r'([^\s,="]+)\s*(=)?\s*(?:(?<==)(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers (RFC 9110, 11.6.1)."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: Scope = frozenset()


class _TokenAnswer(msgspec.Struct, frozen=True):
    """What a realm answers; `token` and `access_token` mean the same."""

    token: str = ""
    access_token: str = ""
    expires_in: float = 0


@dataclass(frozen=True, slots=True)
class _Header:
    """An Authorization header, when it ends on the monotonic clock, and whose it is."""

    value: str
    ends: float
    user: str


class Authenticator:
    """Keeps the Authorization headers of one registry, one for each scope. Thread-safe."""

    def __init__(self, base: str, host: str, transport: Transport, find: Callable[[], Credentials | None]) -> None:
        """Authenticate to the registry at the URL `base`, called `host`; `find` is asked anew for each use."""
        self._base = base
        self._host = host
        self._transport = transport
        self._find = find
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._headers: dict[Scope, _Header] = {}

    def header(self, scope: Scope) -> str:
        """Return the header to send with a request for `scope`; empty while the registry has not asked for one."""
        with self._lock:
            if self._challenge is None:
                return ""
            known = self._headers.get(scope)
            if known is None or known.ends <= time.monotonic():
                known = self._headers[scope] = self._fetch(self._challenge, scope)
            return known.value

    def answer(self, challenges: Iterable[str], scope: Scope, tried: str) -> str:
        """Return the header that answers a 401, which came in spite of the header `tried`.

        Raises `Unauthorized` if there is nothing else to try.
        """
        challenge = self._choose(challenges)
        with self._lock:
            known = self._headers.pop(scope, None)
            if known is None or known.value == tried:  # else another thread got a new one meanwhile
                self._challenge = challenge
                known = self._fetch(challenge, scope | challenge.scope)
                if known.value == tried:
                    raise self._refused(known.user)
            self._headers[scope] = known
            return known.value

    def refused(self, scope: Scope) -> Unauthorized:
        """Return the error for a request that was refused with the newest header, and forget that header."""
        with self._lock:
            known = self._headers.pop(scope, None)
        return self._refused(known.user if known else "")

    def _refused(self, user: str) -> Unauthorized:
        what = f"refuses the credentials of {user}" if user else "wants credentials for this"
        return Unauthorized(what, where=self._host, todo=f"log in with `shipway login {self._host}`")

    def _choose(self, headers: Iterable[str]) -> Challenge:
        offered = {challenge.scheme: challenge for header in headers for challenge in parse_challenges(header)}
        chosen = offered.get("bearer") or offered.get("basic")
        if chosen is None:
            names = ", ".join(sorted(offered))[:100] or "none"
            raise Unauthorized(f"offers no way to authenticate that is known here ({names})", where=self._host)
        return chosen

    def _fetch(self, challenge: Challenge, scope: Scope) -> _Header:
        found = self._find()
        user = f"{found.username or 'the identity token'} ({found.source})" if found else ""
        now = time.monotonic()
        if challenge.scheme == "basic":
            if found is None or not found.password:
                raise self._refused("")
            return _Header(_basic(found), now + _LIFETIME, user)
        with self._ask_realm(challenge, scope, found) as response:
            if error := overload(response):
                raise error
            if response.status in (401, 403):
                raise self._refused(user)
            if response.status != 200:  # noqa: PLR2004  HTTP's number
                body = response.excerpt(MAX_ERROR_BODY)
                sent = _basic(found) if found else ""
                raise refusal(response.status, body, where="the token service", host=self._host, authorization=sent)
            answer = self._read_token(response)
        lifetime = answer.expires_in if answer.expires_in > 0 else _LIFETIME
        value = f"Bearer {answer.token or answer.access_token}"
        return _Header(value, now + max(lifetime - _MARGIN, lifetime / 2), user)

    def _ask_realm(self, challenge: Challenge, scope: Scope, found: Credentials | None) -> Response:
        """Ask for a token: by GET with a password or nothing, by POST with an identity token (OAuth 2)."""
        realm = resolve(self._base, challenge.realm)
        query = [("service", challenge.service)] if challenge.service else []
        scopes = sorted(scope)
        if found and found.identity_token:
            form = [*query, ("grant_type", "refresh_token"), ("client_id", "shipway"), ("scope", " ".join(scopes))]
            body = urlencode([*form, ("refresh_token", found.identity_token)]).encode()
            headers = {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
            return self._transport.send("POST", realm, headers, body)
        query += [("scope", one) for one in scopes]
        separator = "&" if "?" in realm else "?"
        url = f"{realm}{separator}{urlencode(query)}" if query else realm
        return self._transport.send("GET", url, {}, authorization=_basic(found) if found else "")

    def _read_token(self, response: Response) -> _TokenAnswer:
        where = Origin.of(self._base).host
        try:
            answer = msgspec.json.decode(response.body(_MAX_TOKEN), type=_TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unavailable("the token service's answer is not well-formed", where=where) from None
        if not _TOKEN.fullmatch(answer.token or answer.access_token):
            raise Unavailable("the token service answered without a usable token", where=where)
        return answer


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges in a WWW-Authenticate header, their schemes in lower case."""
    found: list[tuple[str, dict[str, str]]] = []
    for match in _CHALLENGE_PART.finditer(header):
        name, equals, quoted, plain = match.groups()
        if not equals:
            found.append((name.lower(), {}))
        elif found:
            found[-1][1][name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain or ""
    return [
        Challenge(scheme, values.get("realm", ""), values.get("service", ""), _scope(values.get("scope", "")))
        for scheme, values in found
    ]


def _scope(text: str) -> Scope:
    """Return the parts of a scope, the actions of each in order: some registries shuffle them."""
    parts = (part.rpartition(":") for part in text.split())
    return frozenset(f"{name}{colon}{','.join(sorted(actions.split(',')))}" for name, colon, actions in parts)


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
