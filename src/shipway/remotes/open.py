"""From a reference to the remote that holds it."""

from __future__ import annotations

from shipway.references import BucketReference, FileReference, Reference, RegistryReference
from shipway.remotes.contract import Remote
from shipway.remotes.files import DockerArchive, LayoutRemote, Tar, WritableLayout
from shipway.remotes.registry import RegistryRemote
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials


def open_remote(reference: Reference) -> Remote:
    """Return the remote for the place of `reference`; nothing is sent before its first use. Close it after."""
    if isinstance(reference, RegistryReference):
        return RegistryRemote(reference)
    if isinstance(reference, BucketReference):
        from shipway.remotes.bucket import BucketRemote  # noqa: PLC0415  obstore is loaded by those who use buckets

        return BucketRemote(reference)
    assert isinstance(reference, FileReference)
    match reference.scheme:
        case "oci-layout":
            return WritableLayout(reference)
        case "oci-archive":
            return LayoutRemote(reference, Tar(reference.path))
        case _:
            return LayoutRemote(reference, DockerArchive(reference.path))


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
