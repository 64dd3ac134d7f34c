"""From a reference to the remote that holds it."""

from __future__ import annotations

from shipway.errors import Invalid
from shipway.references import Reference, RegistryReference
from shipway.remotes.contract import Remote
from shipway.remotes.registry import RegistryRemote
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials


def open_remote(reference: Reference) -> Remote:
    """Return the remote for the place of `reference`; nothing is sent before its first use. Close it after."""
    if isinstance(reference, RegistryReference):
        return RegistryRemote(reference)
    raise Invalid("nothing can open this kind of reference", where=str(reference))


def log_in(reference: RegistryReference, user: str, password: str) -> str:
    """Check a password with a registry, remember it for later, and return the file or program that has it.

    Raises `Unauthorized` if the registry refuses it, `Unavailable` if it cannot be asked; then nothing is stored.
    """
    remote = RegistryRemote(reference, credentials=Credentials(user, password))
    try:
        remote.check()
    finally:
        remote.close()
    return store_credentials(reference.host, user, password)


def log_out(reference: RegistryReference) -> str:
    """Forget the password for a registry, and return the file or program that had it; `NotFound` if none had."""
    return remove_credentials(reference.host)
