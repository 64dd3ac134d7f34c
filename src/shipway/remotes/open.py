"""From a reference to the remote that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from shipway.references import BucketReference, FileReference, Reference, RegistryReference
from shipway.remotes.contract import Remote
from shipway.remotes.fallback import FallbackRemote
from shipway.remotes.files import DockerArchive, LayoutRemote, Tar, WritableLayout
from shipway.remotes.registry import Limits, RegistryRemote, Trust
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials
from shipway.settings import RegistrySettings

Registries = Mapping[str, RegistrySettings]
"""How to speak to registries, by `host[:port]`."""
_ALL_USUAL: Registries = MappingProxyType({})


def open_remote(reference: Reference, registries: Registries = _ALL_USUAL) -> Remote:
    """Return the remote for the place of `reference`, to be read from, by way of its mirrors.

    Nothing is sent before its first use. Close it after.
    """
    own = open_target(reference, registries)
    settings = registries.get(reference.host) if isinstance(reference, RegistryReference) else None
    if settings is None or not settings.mirrors or not isinstance(own, RegistryRemote):
        return own
    return FallbackRemote(own, mirrors=[_open_mirror(mirror, own, registries) for mirror in settings.mirrors])


def open_target(reference: Reference, registries: Registries = _ALL_USUAL) -> Remote:
    """Return the remote for just the place of `reference`, to be written to: what its mirrors have is not there."""
    if isinstance(reference, RegistryReference):
        return _open_registry(reference, registries)
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


def _open_mirror(mirror: str, own: RegistryRemote, registries: Registries) -> RegistryRemote:
    place = RegistryReference.parse(f"oci://{mirror}")
    _, slash, prefix = mirror.partition("/")
    repository = f"{prefix}/{own.repository}" if slash else own.repository
    return _open_registry(replace(place, repository=repository), registries)


def _open_registry(
    reference: RegistryReference, registries: Registries, credentials: Credentials | None = None
) -> RegistryRemote:
    settings = registries.get(reference.host, RegistrySettings())
    trust = Trust(
        insecure=settings.insecure,
        ca=settings.ca,
        client_cert=settings.client_cert,
        client_key=settings.client_key,
    )
    usual = Limits()
    limits = replace(
        usual,
        read=settings.seconds or usual.read,
        connect=min(settings.seconds or usual.connect, usual.connect),
        attempts=settings.attempts,
        connections=settings.connections,
    )
    if settings.ca or settings.client_cert:  # then it speaks TLS, on loopback too
        reference = replace(reference, insecure=False)
    return RegistryRemote(reference, credentials=credentials, limits=limits, trust=trust)


def log_in(reference: RegistryReference, user: str, password: str, registries: Registries = _ALL_USUAL) -> str:
    """Check a password with a registry, remember it for later, and return the file or program that has it.

    Raises `Unauthorized` if the registry refuses it, `Unavailable` if it cannot be asked; then nothing is stored.
    """
    remote = _open_registry(reference, registries, Credentials(user, password))
    try:
        remote.check()
    finally:
        remote.close()
    return store_credentials(reference.host, user, password)


def log_out(reference: RegistryReference) -> str:
    """Forget the password for a registry, and return the file or program that had it; `NotFound` if none had."""
    return remove_credentials(reference.host)
