"""Errors as the OCI distribution API words them (distribution-spec, Error Codes)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from shipway.errors import (
    Corrupt,
    Invalid,
    Locked,
    NoSpace,
    NotFound,
    RepositoryNotFound,
    ShipwayError,
    Unauthorized,
    Unavailable,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What an error means where nothing more particular is said: status and code.
_MEANINGS: tuple[tuple[type[ShipwayError], int, str], ...] = (
    (RepositoryNotFound, 404, "NAME_UNKNOWN"),
    (Corrupt, 400, "DIGEST_INVALID"),
    (Invalid, 400, "UNSUPPORTED"),
    (Locked, 409, "DENIED"),
    (Unauthorized, 403, "DENIED"),
    (Unavailable, 503, "UNAVAILABLE"),
    (NoSpace, 507, "UNAVAILABLE"),
)


class Refusal(Exception):
    """A request that is turned down, with the status, code and message of the answer."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def refuse(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an answer with an OCI error body."""
    body = msgspec.json.encode({"errors": [{"code": code, "message": message}]})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def answering(handler: Handler, *, unknown: str) -> Handler:
    """Return `handler` with its errors turned into answers; `unknown` is the code of what is not found.

    Only what an error says is passed on, not where it happened: that may be a path of this machine.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as error:
            return refuse(error.status, error.code, error.message, error.headers)
        except ShipwayError as error:
            return _answer_to(error, unknown)
        except (ConnectionError, web.RequestPayloadError):
            return refuse(400, "BLOB_UPLOAD_INVALID", "the connection broke while the body came")

    return answer


def _answer_to(error: ShipwayError, unknown: str) -> web.Response:
    for kind, status, code in _MEANINGS:
        if isinstance(error, kind):
            return refuse(status, code, error.what)
    if isinstance(error, NotFound):
        return refuse(404, unknown, error.what)
    return refuse(500, "UNKNOWN", error.what)
