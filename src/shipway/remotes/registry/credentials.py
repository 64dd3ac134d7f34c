"""Finding and keeping registry credentials, where other container tools do.

Looked up anew for each use, so that a `login` or a rotating helper is heard at
once. The files are those of containers-auth.json(5) and of Docker's
`config.json`, which share one format: `auths` (base64 of `user:password`, or an
`identitytoken`), `credHelpers` and `credsStore` (programs to ask).
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shipway.errors import Invalid, NoSpace, Unavailable

_HELPER_TIMEOUT = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_SERVER = "https://index.docker.io/v1/"
#: What a helper answers as the user when the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105  the protocol's marker, not a password


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


class _HelperAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """What `docker-credential-X get` prints."""

    username: str = ""
    secret: str = ""


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


def store_credentials(host: str, user: str, password: str, path: str | Path | None = None) -> Path:
    """Remember the password of `user` at `host[:port]`, and return the file it is in.

    The file is `path`, else `$REGISTRY_AUTH_FILE`, else `~/.config/containers/auth.json`. What else
    it holds stays. It is replaced in one step, readable by its owner alone.
    """
    if ":" in user or not user:
        raise Invalid("a user name must not be empty or hold a colon", where=host)
    target = Path(path) if path is not None else _login_file(os.environ)
    content = _read_any(target)
    auths = content.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise Invalid("`auths` is not an object", where=str(target))
    auths[host] = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    _write_private(target, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    return target


def _config_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".config")


def _login_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("REGISTRY_AUTH_FILE")
    return Path(named) if named else _config_home(environ) / "containers" / "auth.json"


def _auth_files(environ: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Yield the files to look in, in order, and whether the user named each."""
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named), True
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers", "auth.json"), False
    yield _config_home(environ) / "containers" / "auth.json", False
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
    helper = next((content.cred_helpers[name] for name in _aliases(host) if name in content.cred_helpers), None)
    if helper is not None:
        return _ask_helper(helper, host)
    auths = {_plain_key(key): value for key, value in content.auths.items()}
    for key in _keys(host, repository):
        entry = auths.get(key)
        if entry and (found := _from_entry(entry, where)):
            return found
    return _ask_helper(content.creds_store, host) if content.creds_store else None


def _aliases(host: str) -> tuple[str, ...]:
    return (*_DOCKER_HUB, _DOCKER_HUB_SERVER) if host in _DOCKER_HUB else (host,)


def _keys(host: str, repository: str) -> Iterator[str]:
    """Yield what an entry may be filed under, the most specific first."""
    for name in _aliases(host):
        path = f"{name}/{repository}" if repository else name
        while path:
            yield path
            path = path.rpartition("/")[0]


def _plain_key(key: str) -> str:
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


def _ask_helper(name: str, host: str) -> Credentials | None:
    """Ask `docker-credential-NAME get`. Its output is never quoted: it could hold the secret."""
    program = f"docker-credential-{name}"
    if not _HELPER_NAME.fullmatch(name):
        raise Invalid(f"not the name of a credential helper: {name[:50]!r}", where=host)
    if shutil.which(program) is None:  # a search that a directory closed to us ends looks like a file closed to us
        raise Unavailable("the auth file names this credential helper, but it is not installed", where=program)
    server = _DOCKER_HUB_SERVER if host in _DOCKER_HUB else host
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot be asked for credentials ({type(error).__name__})", where=program) from None
    if done.returncode:
        if b"credentials not found" in done.stdout:
            return None
        raise Unavailable(f"failed with exit code {done.returncode}", where=program, todo=f"see `{program} list`")
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable("did not answer with credentials", where=program) from None
    if answer.username == _TOKEN_USER:
        return Credentials("", identity_token=answer.secret, source=program)
    return Credentials(answer.username, answer.secret, source=program)


def _read_any(path: Path) -> dict[str, Any]:
    """Return the file as it is, to be changed; empty if there is none."""
    try:
        content = msgspec.json.decode(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("not a well-formed auth file", where=str(path)) from None
    if not isinstance(content, dict):
        raise Invalid("not a well-formed auth file", where=str(path))
    return content


def _write_private(path: Path, data: bytes) -> None:
    """Replace `path` in one step by a file that only its owner may read."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".auth-", dir=path.parent)  # made with mode 0600
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        temporary = ""
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Invalid
        raise kind(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        if temporary:
            os.unlink(temporary)
