"""login, logout: credentials of registries."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from shipway.cli.session import InSession
from shipway.errors import Invalid
from shipway.references import RegistryReference


def login(
    registry: str,
    /,
    *,
    username: Annotated[str, Parameter(alias="-u")],
    password_stdin: bool = False,
    session: InSession,
) -> None:
    """Check a password with a registry and remember it, where podman and skopeo look too.

    Args:
        registry: The host, or a reference at it.
        username: The user.
        password_stdin: Read the password from standard input; otherwise it is asked for on the terminal.
    """
    from shipway.remotes.registry import log_in  # noqa: PLC0415  only this command needs the HTTP client

    place = _place(registry)
    registries = session.in_force().config.registry
    password = _password(place.host, from_stdin=password_stdin)
    if not password:
        raise Invalid("the password is empty", where=place.host)
    kept_in = log_in(place, username, password, registries)
    document = {"registry": place.host, "username": username, "kept_in": kept_in}
    session.show(document, [f"remembered in {kept_in}"])


def logout(registry: str, /, *, session: InSession) -> None:
    """Forget the password that `login` remembered for a registry.

    Args:
        registry: The host, or a reference at it.
    """
    from shipway.remotes.registry import log_out  # noqa: PLC0415  only this command needs the HTTP client

    place = _place(registry)
    kept_in = log_out(place)
    session.show({"registry": place.host, "kept_in": kept_in}, [f"removed from {kept_in}"])


def _place(registry: str) -> RegistryReference:
    return RegistryReference.parse(registry if "://" in registry else f"oci://{registry}")


def _password(host: str, *, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise Invalid("no terminal to ask for the password on", where=host, todo="use --password-stdin")
    from getpass import getpass  # noqa: PLC0415  only on a terminal

    return getpass(f"password for {host}: ")
