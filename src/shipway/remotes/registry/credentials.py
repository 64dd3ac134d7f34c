"""Finding registry credentials, where other container tools keep them.

Looked up anew for each use, so that a `login` or a rotating helper is heard at
once. The files are those of containers-auth.json(5) and of Docker's
`config.json`, which share one format: `auths` (base64 of `user:password`, or an
`identitytoken`), `credHelpers` and `credsStore` (programs to ask).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shipway.errors import Invalid
from shipway.remotes.registry import helpers

_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_SERVER = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token that buys access tokens. Neither shows in a `repr`."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = "given"
    """Where they were found, for messages."""


class _Auth(msgspec.Struct, frozen=True):
    """One value of `auths`."""

    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _AuthFile(msgspec.Struct, frozen=True, rename="camel"):
    """An auth file; what else it holds is left alone."""

    auths: dict[str, _Auth] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


def find_credentials(host: str, repository: str = "", environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """Return the credentials for a repository at `host[:port]`, or None if there are none.

    The files, in order: `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`,
    `~/.config/containers/auth.json`, `$DOCKER_CONFIG/config.json`, `~/.docker/config.json`. In each, an entry for
    the repository goes before one for a namespace that holds it, and that before one for the host.
    Raises `Invalid` for a file that cannot be understood, `Unavailable` for a helper that fails.
    """
    for path, asked_for in _auth_files(environ):
        content = _read(path, required=asked_for)
        if content is not None:
            found = _look_up(content, host, repository, str(path))
            if found:
                return found
    return None


def config_home(environ: Mapping[str, str]) -> Path:
    """Return the user's directory of configurations."""
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".config")


def _auth_files(environ: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Yield the files to look in, in order, and whether the user named each."""
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named), True
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers", "auth.json"), False
    yield config_home(environ) / "containers" / "auth.json", False
    if docker := environ.get("DOCKER_CONFIG"):
        yield Path(docker, "config.json"), True
    yield Path(environ.get("HOME") or "~").expanduser() / ".docker" / "config.json", False


def _read(path: Path, *, required: bool) -> _AuthFile | None:
    """Return the file's content; None if there is none, or none for us in a place nobody named."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not required:
            return None
        raise Invalid(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return msgspec.json.decode(data or b"{}", type=_AuthFile)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Neither the text of the error nor its cause: both could quote a password.
        raise Invalid("not a well-formed auth file", where=str(path)) from None


def _look_up(content: _AuthFile, host: str, repository: str, where: str) -> Credentials | None:
    helper = next((content.cred_helpers[name] for name in aliases(host) if name in content.cred_helpers), None)
    if helper is not None:
        return _from_helper(helper, host)
    auths = {plain_key(key): value for key, value in content.auths.items()}
    for key in _keys(host, repository):
        entry = auths.get(key)
        if entry and (found := _from_entry(entry, where)):
            return found
    return _from_helper(content.creds_store, host) if content.creds_store else None


def aliases(host: str) -> tuple[str, ...]:
    """Return the names that credentials of `host[:port]` may be filed under."""
    return (*_DOCKER_HUB, _DOCKER_HUB_SERVER) if host in _DOCKER_HUB else (host,)


def server_name(host: str) -> str:
    """Return what credential helpers know `host[:port]` by."""
    return _DOCKER_HUB_SERVER if host in _DOCKER_HUB else host


def _keys(host: str, repository: str) -> Iterator[str]:
    """Yield what an entry may be filed under, the most specific first."""
    for name in aliases(host):
        path = f"{name}/{repository}" if repository else name
        while path:
            yield path
            path = path.rpartition("/")[0]


def plain_key(key: str) -> str:
    """Return a key of `auths` without the scheme and version that Docker writes: `https://host/v1/` is `host`."""
    plain = re.sub(r"^https?://", "", key)
    return re.sub(r"/(v[12]/?)?$", "", plain)


def _from_entry(entry: _Auth, where: str) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            username, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Invalid("an `auth` is not base64 of user:password", where=where) from None
        if not colon:
            raise Invalid("an `auth` is not base64 of user:password", where=where)
    if not username and not entry.identitytoken:
        return None
    return Credentials(username, password.rstrip("\0"), entry.identitytoken, where)


def _from_helper(name: str, host: str) -> Credentials | None:
    answer = helpers.get(name, server_name(host))
    if answer is None:
        return None
    if answer.username == helpers.TOKEN_USER:
        return Credentials("", identity_token=answer.secret, source=helpers.program(name))
    return Credentials(answer.username, answer.secret, source=helpers.program(name))
