"""What a bucket's answers mean, as Shipway's errors.

obstore's messages hold URLs, and a URL may hold a signature. So only a status and a service's own error code
are taken out of them, never a passage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from shipway.errors import (
    Conflict,
    Invalid,
    NoSpace,
    NotFound,
    RepositoryNotFound,
    ShipwayError,
    Unauthorized,
    Unavailable,
)
from shipway.references import BucketReference

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_OS_ERROR = re.compile(r"\(os error (\d{1,4})\)")
_ENVIRONMENT = "set credentials for it in the environment"
_SETTINGS = {
    "az": "set $AZURE_STORAGE_ACCOUNT_NAME and $AZURE_STORAGE_ACCOUNT_KEY",
    "gs": "set $GOOGLE_APPLICATION_CREDENTIALS to a file that can be read",
}
#: Services of a cloud's own machines that give out credentials; asked when nothing else is set.
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "fd00:ec2::254")
_USAGE = (ValueError, TypeError, NotImplementedError, NotSupportedError, InvalidPathError, UnknownConfigurationKeyError)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what obstore raises in the block into Shipway's errors about `where`."""
    try:
        yield
    except (BaseError, FileNotFoundError, NotImplementedError, ValueError, TypeError) as error:
        raise meaning(error, where) from None  # the cause's text may hold what must not be shown


@contextmanager
def configured(reference: BucketReference) -> Iterator[None]:
    """Turn what obstore raises for settings that make no sense, before anything is sent, into `Invalid`."""
    try:
        yield
    except (BaseError, OSError, NotImplementedError, ValueError, TypeError) as error:
        what = "what the environment says of the account and its credentials makes no sense"
        if "MissingAccount" in str(error):
            what = "no storage account is named"
        todo = _SETTINGS.get(reference.scheme, _ENVIRONMENT)
        raise Invalid(what, where=reference.place, todo=todo) from None  # the cause's text may hold what is secret


def meaning(error: Exception, where: str) -> ShipwayError:
    """Return the error that an exception of obstore stands for."""
    text = str(error)
    status, code = status_of(error), _found(_CODE, text)
    said = f"the service answered {status}{f' ({code})' if code else ''}" if status else ""
    kind = _kind(error, text, status)
    if kind is NotFound and code in _NO_BUCKET:
        return RepositoryNotFound("no such bucket", where=where)
    what, todo = {
        NotFound: ("no such object", ""),
        Conflict: ("somebody else wrote it first", "look at what is there now"),
        Unauthorized: (f"not permitted ({said})" if said else "not permitted, or no credentials found", _ENVIRONMENT),
        NoSpace: ("no space left on the disk", ""),
        Invalid: (said or f"cannot be done with this bucket ({type(error).__name__})", ""),
        Unavailable: (said or _reason(text), ""),
    }[kind]
    return kind(what, where=where, todo=todo)


def _kind(error: Exception, text: str, status: str) -> type[ShipwayError]:
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in ("401", "403"):
        return Unauthorized
    for kind, matches in (
        (NotFound, isinstance(error, FileNotFoundError) or status == "404"),
        (Conflict, isinstance(error, (AlreadyExistsError, PreconditionError))),
        (Unauthorized, any(service in text for service in _METADATA)),
        (NoSpace, _found(_OS_ERROR, text) in ("28", "122")),
        (Invalid, isinstance(error, _USAGE) or (status.startswith("4") and status not in ("408", "429"))),
    ):
        if matches:
            return kind
    return Unavailable


def status_of(error: Exception) -> str:
    """Return the HTTP status that an exception tells of; empty if it tells of none."""
    return _found(_STATUS, str(error))


def _reason(text: str) -> str:
    for sign, reason in (
        ("timed out", "the service does not answer in time"),
        ("TimedOut", "the service does not answer in time"),
        ("connect", "the service cannot be connected to"),
        ("error sending request", "the service cannot be connected to"),
        ("non-partial response", "the service does not answer ranges"),
    ):
        if sign in text:
            return reason
    if number := _found(_OS_ERROR, text):
        return f"cannot be used: {os.strerror(int(number))}"
    return "the connection failed"


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
