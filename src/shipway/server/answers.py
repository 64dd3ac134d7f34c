"""Errors as the OCI distribution API words them (distribution-spec, Error Codes)."""

from __future__ import annotations

import logging

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

_log = logging.getLogger("shipway.server")

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


def answer_to(error: Exception, unknown: str, request: web.BaseRequest) -> web.Response:
    """Return the answer to a request that ended in `error`; `unknown` is the code of what is not found.

    Only what an error says is passed on, not where it happened: that may be a path of this machine.
    """
    match error:
        case Refusal():
            return refuse(error.status, error.code, error.message, error.headers)
        case ShipwayError():
            for kind, status, code in _MEANINGS:
                if isinstance(error, kind):
                    return refuse(status, code, error.what)
            return (
                refuse(404, unknown, error.what) if isinstance(error, NotFound) else refuse(500, "UNKNOWN", error.what)
            )
        case ConnectionError() | web.RequestPayloadError():
            return refuse(400, "BLOB_UPLOAD_INVALID", "the connection broke while the body came")
        case _:
            _log.error("%s %s failed", request.method, request.path, exc_info=error)
            return refuse(500, "UNKNOWN", "the server failed; its log says how")
