"""What a registry's answers mean, as Shipway's errors (distribution-spec, Error Codes).

A registry's own words are quoted only within bounds, and never with what was
sent to authenticate: a server may echo that.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from shipway.errors import (
    DigestMismatch,
    Invalid,
    NotFound,
    RepositoryNotFound,
    ShipwayError,
    SizeMismatch,
    Unauthorized,
    Unavailable,
)

MAX_ERROR_BODY = 64 << 10
"""Bytes of an error's body that are read."""
_MAX_MESSAGE = 200

_KINDS: dict[str, type[ShipwayError]] = {
    "NAME_UNKNOWN": RepositoryNotFound,
    "REPOSITORY_NOT_FOUND": RepositoryNotFound,
    "MANIFEST_UNKNOWN": NotFound,
    "MANIFEST_BLOB_UNKNOWN": NotFound,
    "BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "DIGEST_INVALID": DigestMismatch,
    "SIZE_INVALID": SizeMismatch,
    "DENIED": Unauthorized,
    "UNAUTHORIZED": Unauthorized,
    "TOOMANYREQUESTS": Unavailable,
}


class Transient(Unavailable):
    """A failure that may be gone in a moment; `after` is how many seconds the server asked to wait."""

    def __init__(self, what: str, *, where: str = "", todo: str = "", after: float | None = None) -> None:
        super().__init__(what, where=where, todo=todo)
        self.after = after


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[_Error, ...] = ()


def refusal(
    status: int, body: bytes, *, where: str, host: str, authorization: str = "", plain: bool = False
) -> ShipwayError:
    """Return the error for an answer of `status` with the (bounded) `body`.

    `where` is what was asked for, `authorization` the header that was sent, whose content is cut out
    of whatever the server says; `plain` that it was asked without TLS.
    """
    code, message = _parse(body)
    what = _quote(message or code, authorization) or f"the registry answered {status}"
    kind = _KINDS.get(code)
    if kind is None and status in (401, 403):
        kind = Unauthorized
    elif kind is None and status == 404:  # noqa: PLR2004  HTTP's number
        kind = NotFound
    elif kind is None and 400 <= status < 500:  # noqa: PLR2004  HTTP's numbers
        kind = Invalid
    if kind is Unauthorized:
        return Unauthorized(f"not permitted ({what})", where=where, todo=f"log in to {host} as someone who may")
    # What servers of TLS answer to plain HTTP is no error of a registry.
    todo = f"if {host} speaks TLS, configure `ca` or `insecure` for it" if plain and status == 400 and not code else ""  # noqa: PLR2004
    return (kind or Unavailable)(what, where=where, todo=todo)


def _parse(body: bytes) -> tuple[str, str]:
    """Return code and message of the first error in an OCI error body; empty if it is not one."""
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    return (errors[0].code, errors[0].message) if errors else ("", "")


def _quote(message: str, authorization: str) -> str:
    """Return a server's words made fit for a line: short, printable, and without secrets."""
    for secret in _secrets(authorization):
        message = message.replace(secret, "***")
    message = re.sub(r"[^\x20-\x7e]+", " ", message).strip()
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"


def _secrets(authorization: str) -> list[str]:
    """Return what in an Authorization header must not be repeated."""
    scheme, _, value = authorization.partition(" ")
    if not value:
        return []
    secrets = [value]
    if scheme.lower() == "basic":
        try:
            secrets.append(base64.b64decode(value).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            return secrets
    return [secret for secret in secrets if secret]
