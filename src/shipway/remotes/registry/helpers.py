"""Credential helpers: programs `docker-credential-NAME` that keep credentials, as Docker's protocol has them.

They are named in auth files, found on the PATH, and spoken to by standard input and output. What they
print is never quoted: it could hold the secret.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import msgspec

from shipway.errors import Invalid, Unavailable

TOKEN_USER = "<token>"  # noqa: S105  the protocol's marker, not a password
"""What a helper has as the user when the secret is an identity token."""
_TIMEOUT = 30.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NOT_FOUND = b"credentials not found"


class Answer(msgspec.Struct, frozen=True, rename="pascal"):
    """What `get` prints."""

    username: str = ""
    secret: str = ""

    def __repr__(self) -> str:
        return f"Answer({self.username!r})"


class _Entry(msgspec.Struct, frozen=True):
    """What `store` reads."""

    ServerURL: str
    Username: str
    Secret: str


def program(name: str) -> str:
    """Return the name of the program of a helper."""
    return f"docker-credential-{name}"


def get(name: str, server: str) -> Answer | None:
    """Return what the helper has for `server`, None if it has nothing.

    Raises `Invalid` for what is no name of a helper, `Unavailable` for a helper that is missing or fails.
    """
    done = _run(name, "get", server.encode())
    if done.returncode:
        if _NOT_FOUND in done.stdout:
            return None
        raise _failed(name, done)
    try:
        return msgspec.json.decode(done.stdout, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable("did not answer with credentials", where=program(name)) from None


def store(name: str, server: str, user: str, secret: str) -> None:
    """Have the helper keep a secret. Raises as `get` does."""
    done = _run(name, "store", msgspec.json.encode(_Entry(server, user, secret)))
    if done.returncode:
        raise _failed(name, done)


def erase(name: str, server: str) -> bool:
    """Have the helper forget `server`; return whether it knew it. Raises as `get` does."""
    if get(name, server) is None:
        return False
    done = _run(name, "erase", server.encode())
    if done.returncode:
        raise _failed(name, done)
    return True


def _run(name: str, action: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    if not _NAME.fullmatch(name):
        raise Invalid(f"not the name of a credential helper: {name[:50]!r}", where="auth file")
    if shutil.which(program(name)) is None:  # a search that a closed directory ends looks like a file closed to us
        raise Unavailable("the auth file names this credential helper, but it is not installed", where=program(name))
    try:
        return subprocess.run([program(name), action], input=given, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"did not {action} credentials in {_TIMEOUT:g} seconds", where=program(name)) from None
    except OSError as error:
        what = f"cannot be asked to {action} credentials: {error.strerror}"
        raise Unavailable(what, where=program(name)) from None


def _failed(name: str, done: subprocess.CompletedProcess[bytes]) -> Unavailable:
    action = f"`{program(name)} list`"
    return Unavailable(f"failed with exit code {done.returncode}", where=program(name), todo=f"see {action}")
