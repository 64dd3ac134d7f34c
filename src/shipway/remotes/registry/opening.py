"""From a registry's reference, and what the configuration says of that registry, to the remote that speaks to it."""

from __future__ import annotations

from dataclasses import replace

from shipway.references import RegistryReference
from shipway.remotes.contract import Registries, Remote
from shipway.remotes.fallback import FallbackRemote
from shipway.remotes.registry.client import RegistryRemote
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials
from shipway.remotes.registry.transport import Limits
from shipway.remotes.registry.trust import Trust
from shipway.settings import RegistrySettings


def open_mirrored(reference: RegistryReference, registries: Registries) -> Remote:
    """Return the remote for a repository, to be read from, by way of its mirrors."""
    own = open_registry(reference, registries)
    settings = registries.get(reference.host)
    if settings is None or not settings.mirrors:
        return own
    return FallbackRemote(own, mirrors=[_open_mirror(mirror, own, registries) for mirror in settings.mirrors])


def _open_mirror(mirror: str, own: RegistryRemote, registries: Registries) -> RegistryRemote:
    place = RegistryReference.parse(f"oci://{mirror}")
    _, slash, prefix = mirror.partition("/")
    repository = f"{prefix}/{own.repository}" if slash else own.repository
    return open_registry(replace(place, repository=repository), registries)


def open_registry(
    reference: RegistryReference, registries: Registries, credentials: Credentials | None = None
) -> RegistryRemote:
    """Return the remote for just this registry. Without `credentials` they are looked up when it asks for some."""
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
    if settings.ca or settings.client_cert or settings.insecure:  # then it speaks TLS, on loopback too, or may
        reference = replace(reference, insecure=False)
    return RegistryRemote(reference, credentials=credentials, limits=limits, trust=trust)


def log_in(reference: RegistryReference, user: str, password: str, registries: Registries) -> str:
    """Check a password with a registry, remember it for later, and return the file or program that has it.

    Raises `Unauthorized` if the registry refuses it, `Unavailable` if it cannot be asked; then nothing is stored.
    """
    remote = open_registry(reference, registries, Credentials(user, password))
    try:
        remote.check()
    finally:
        remote.close()
    return store_credentials(reference.host, user, password)


def log_out(reference: RegistryReference) -> str:
    """Forget the password for a registry, and return the file or program that had it; `NotFound` if none had."""
    return remove_credentials(reference.host)
