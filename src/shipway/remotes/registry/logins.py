"""Keeping and removing registry credentials, where other container tools look for them too.

The file is `$REGISTRY_AUTH_FILE`, else `~/.config/containers/auth.json`. If it names a credential
helper for the registry (`credHelpers`, else `credsStore`), the secret goes there and not into the file.
"""

from __future__ import annotations

import base64
import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shipway.errors import Invalid, NoSpace, NotFound
from shipway.remotes.registry import helpers
from shipway.remotes.registry.credentials import aliases, config_home, find_credentials, plain_key, server_name


def store_credentials(host: str, user: str, password: str, path: str | Path | None = None) -> str:
    """Remember the password of `user` at `host[:port]`, and return the file or the program that has it.

    What else the file holds stays. It is replaced in one step, readable by its owner alone.
    """
    if ":" in user or not user:
        raise Invalid("a user name must not be empty or hold a colon", where=host)
    target = Path(path) if path is not None else _login_file(os.environ)
    content = _read(target)
    helper = _helper(content, host, target)
    if helper:
        helpers.store(helper, server_name(host), user, password)
        return helpers.program(helper)
    auths = _object(content, "auths", target)
    auths[host] = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    _write(target, content)
    return str(target)


def remove_credentials(host: str, path: str | Path | None = None) -> str:
    """Forget the credentials for `host[:port]`, and return the file or the program that had them.

    `NotFound` if there are none where `store_credentials` keeps them; it says where there still are some.
    """
    target = Path(path) if path is not None else _login_file(os.environ)
    content = _read(target)
    helper = _helper(content, host, target)
    if helper and helpers.erase(helper, server_name(host)):
        return helpers.program(helper)
    auths = _object(content, "auths", target)
    ours = [key for key in auths if plain_key(key) in {plain_key(name) for name in aliases(host)}]
    if not ours:
        other = find_credentials(host)
        todo = f"remove those in {other.source} with the tool that made them" if other else ""
        raise NotFound("holds no credentials for it", where=f"{host}: {target}", todo=todo)
    for key in ours:
        del auths[key]
    _write(target, content)
    return str(target)


def _login_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("REGISTRY_AUTH_FILE")
    return Path(named) if named else config_home(environ) / "containers" / "auth.json"


def _helper(content: dict[str, Any], host: str, path: Path) -> str:
    """Return the name of the helper that keeps the credentials of a host, empty if the file itself does."""
    named = _object(content, "credHelpers", path)
    found = next((named[name] for name in aliases(host) if name in named), content.get("credsStore", ""))
    if not isinstance(found, str):
        raise Invalid("the name of a credential helper is not a text", where=str(path))
    return found


def _object(content: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = content.get(name, {}) if name != "auths" else content.setdefault(name, {})
    if not isinstance(value, dict):
        raise Invalid(f"`{name}` is not an object", where=str(path))
    return value


def _read(path: Path) -> dict[str, Any]:
    """Return the file as it is, to be changed; empty if there is none."""
    try:
        content = msgspec.json.decode(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Neither the text of the error nor its cause: both could quote a password.
        raise Invalid("not a well-formed auth file", where=str(path)) from None
    if not isinstance(content, dict):
        raise Invalid("not a well-formed auth file", where=str(path))
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` in one step by a file that only its owner may read."""
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
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
