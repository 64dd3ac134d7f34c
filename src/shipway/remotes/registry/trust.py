"""Whom a registry's TLS connections trust, and what they show of us."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipway.errors import Invalid


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known of a registry's certificates.

    The authorities in `ca` are trusted besides the system's, also where the registry redirects to and
    where its tokens come from. Only the registry's own host gets to see the client certificate, and
    only there `insecure` leaves certificates unchecked.
    """

    insecure: bool = False
    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def context(self, *, at_home: bool) -> ssl.SSLContext:
        """Return a context for the registry's own host, or for others. `Invalid` for files that are of no use."""
        if not at_home:
            return Trust(ca=self.ca).context(at_home=True)
        if self == Trust():
            return _usual()
        context = ssl.create_default_context()
        if self.ca is not None:
            with _reading(self.ca, "holds no certificate of an authority"):
                context.load_verify_locations(self.ca)
        if self.client_cert is not None:
            with _reading(self.client_cert, "holds no certificate that fits its key"):
                context.load_cert_chain(self.client_cert, self.client_key, password=_no_password)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@functools.cache
def _usual() -> ssl.SSLContext:
    """Return the context of the system's authorities; made once, since loading them takes 15 ms."""
    return ssl.create_default_context()


def _no_password() -> str:
    raise ValueError("its key is locked with a password")  # else OpenSSL asks for one on the terminal


@contextmanager
def _reading(path: Path, otherwise: str) -> Iterator[None]:
    """Say of what goes wrong inside which file it is about."""
    try:
        yield
    except ssl.SSLError as error:
        raise Invalid(otherwise, where=str(path)) from error
    except OSError as error:
        raise Invalid(f"it or its key cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise Invalid(str(error), where=str(path)) from error
