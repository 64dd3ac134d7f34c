"""From a reference to the remote that holds it."""

from __future__ import annotations

from shipway.oci import Reference
from shipway.remotes.contract import Remote
from shipway.remotes.registry import RegistryRemote
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials


def open_remote(reference: Reference) -> Remote:
    """Return the remote for the repository of `reference`; nothing is sent before its first use. Close it after."""
    return RegistryRemote(reference)


def log_in(reference: Reference, user: str, password: str) -> str:
    """Check a password with a registry, remember it for later, and return the file or program that has it.

    Raises `Unauthorized` if the registry refuses it, `Unavailable` if it cannot be asked; then nothing is stored.
    """
    remote = RegistryRemote(reference, credentials=Credentials(user, password))
    try:
        remote.check()
    finally:
        remote.close()
    return store_credentials(reference.host, user, password)


def log_out(reference: Reference) -> str:
    """Forget the password for a registry, and return the file or program that had it; `NotFound` if none had."""
    return remove_credentials(reference.host)
