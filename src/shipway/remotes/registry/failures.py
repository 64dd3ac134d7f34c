"""What a network's failures mean, as Shipway's errors."""

from __future__ import annotations

import ssl

from urllib3.exceptions import LocationParseError, NameResolutionError, NewConnectionError, ProxyError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from shipway.errors import ShipwayError, Unavailable
from shipway.remotes.registry.errors import Transient

#: What OpenSSL calls an answer in plain HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_TUNNEL = "Tunnel connection failed: "


class NotTLS(Unavailable):
    """The other side speaks something else where TLS was expected."""


def failure(error: Exception, where: str) -> ShipwayError:
    """Return the error for what urllib3 raised about the host `where`: `Transient` only if trying again may help."""
    inner = innermost(error)
    if isinstance(error, ProxyError):
        return _failure_of_proxy(inner, where)
    if isinstance(error, NameResolutionError | NewConnectionError):
        todo = "is the registry running there?" if type(error) is NewConnectionError else ""
        return Unavailable(_no_connection(error), where=where, todo=todo)
    if isinstance(error, LocationParseError):
        return Unavailable("not a well-formed address", where=where)
    if isinstance(inner, ssl.SSLError) and (known := _failure_of_tls(inner, where)) is not None:
        return known
    if isinstance(error, HTTPTimeout):
        return Transient("does not answer in time", where=where)
    return Transient(f"the connection broke{_in_words(inner)}", where=where)


def _in_words(error: Exception) -> str:
    """Return what the system says of an error, in brackets; nothing where it is only known to the program."""
    return f" ({error.strerror.lower()})" if isinstance(error, OSError) and error.strerror else ""


def _failure_of_tls(inner: ssl.SSLError, where: str) -> ShipwayError | None:
    """Return the error for a TLS connection that never came to be, None if it is about one that broke."""
    if isinstance(inner, ssl.SSLCertVerificationError):
        return Unavailable(
            f"its certificate is not to be trusted ({inner.verify_message})",
            where=where,
            todo="name its authority as `ca` in the configuration",
        )
    if inner.reason in _NOT_TLS:
        return NotTLS("does not speak TLS", where=where, todo="write oci+http:// for plain HTTP")
    if inner.reason and "ALERT" in inner.reason:
        why = inner.reason.replace("_", " ").lower()
        return Unavailable(
            f"refuses the TLS connection ({why})", where=where, todo="does it want a client certificate?"
        )
    return None


def _failure_of_proxy(inner: Exception, where: str) -> ShipwayError:
    """Return the error for what a proxy does; neither its URL, nor what is in it, is said."""
    text = str(inner)
    if text.startswith(_TUNNEL):
        status = text.removeprefix(_TUNNEL)[:100]
        kind = Transient if status.startswith("5") else Unavailable
        return kind(f"the proxy does not let us through ({status})", where=where)
    why = f" ({_no_connection(inner)})" if isinstance(inner, NewConnectionError) else _in_words(inner)
    return Unavailable(f"the proxy cannot be reached{why}", where=where, todo="see $HTTP_PROXY, $HTTPS_PROXY")


def _no_connection(error: NewConnectionError) -> str:
    if isinstance(error, NameResolutionError):
        return "no such host"
    cause = error.__cause__
    return cause.strerror.lower() if isinstance(cause, OSError) and cause.strerror else "no connection"


def innermost(error: Exception) -> Exception:
    """Return the socket's own error, which urllib3 wraps as the last argument of others."""
    inner = error.args[-1] if error.args else None
    return innermost(inner) if isinstance(inner, Exception) else error
