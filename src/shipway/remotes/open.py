"""From a reference to the remote that holds it."""

from __future__ import annotations

from pathlib import Path

from shipway.errors import Invalid
from shipway.references import BucketReference, Reference, RegistryReference
from shipway.remotes.contract import Remote
from shipway.remotes.registry import RegistryRemote
from shipway.remotes.registry.credentials import Credentials, store_credentials


def open_remote(reference: Reference) -> Remote:
    """Return the remote for the place of `reference`; nothing is sent before its first use. Close it after."""
    if isinstance(reference, RegistryReference):
        return RegistryRemote(reference)
    if isinstance(reference, BucketReference):
        from shipway.remotes.bucket import BucketRemote  # noqa: PLC0415  obstore is loaded by those who use buckets

        return BucketRemote(reference)
    raise Invalid("nothing can open this kind of reference", where=str(reference))


def log_in(reference: RegistryReference, user: str, password: str) -> Path:
    """Check a password with a registry, remember it for later, and return the file it is in.

    Raises `Unauthorized` if the registry refuses it, `Unavailable` if it cannot be asked; then nothing is stored.
    """
    remote = RegistryRemote(reference, credentials=Credentials(user, password))
    try:
        remote.check()
    finally:
        remote.close()
    return store_credentials(reference.host, user, password)
