"""Which proxy a request goes through: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in small letters too.

`NO_PROXY` is a list of hosts, domains (`.example.com`, or `example.com` for itself and what is below), addresses
and networks (`10.0.0.0/8`), each with a port if only that is meant; `*` is everything. Loopback never goes
through a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import urllib3

from shipway.errors import Invalid
from shipway.references import is_loopback


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy by its URL without credentials; `login` is `user:password`, if any, and does not show in a `repr`."""

    url: str
    login: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates us to it."""
        return urllib3.make_headers(proxy_basic_auth=self.login) if self.login is not None else {}


def proxy_for(scheme: str, host: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for requests by `scheme` to `host:port`, None for none. `Invalid`, naming the variable."""
    name = f"{scheme}_proxy"
    for variable in (name, name.upper()):
        # A web server's CGI scripts get a client's `Proxy` header as HTTP_PROXY.
        usable = variable != "HTTP_PROXY" or "REQUEST_METHOD" not in environ
        if usable and (text := environ.get(variable)):
            if is_loopback(host) or _is_excepted(host, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
                return None
            return _parse(text, variable)
    return None


def _parse(text: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise Invalid("not the URL of a proxy", where=f"${variable}") from None  # the error would quote a password
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(
            "not the URL of an HTTP proxy", where=f"${variable}", todo="write http://[user:password@]host:port"
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    login = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(f"{parts.scheme}://{name}:{port or (443 if parts.scheme == 'https' else 80)}", login)


def _is_excepted(host: str, no_proxy: str) -> bool:
    name, _, port = host.rpartition(":")
    name = name.strip("[]").lower()
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if entry and (entry == "*" or _matches(name, port, entry)):
            return True
    return False


def _matches(name: str, port: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of them is a name, or has a port
    wanted, colon, its_port = entry.rpartition(":")
    if colon and its_port.isdecimal():
        if its_port != port:
            return False
        entry = wanted.strip("[]")
    domain = entry.removeprefix("*").removeprefix(".")
    return (name == domain and not entry.startswith((".", "*."))) or name.endswith(f".{domain}")
