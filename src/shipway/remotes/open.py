"""From a reference to the remote that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from shipway.errors import Invalid
from shipway.references import Reference, RegistryReference
from shipway.remotes.contract import Remote
from shipway.remotes.fallback import FallbackRemote
from shipway.remotes.registry import Limits, RegistryRemote, Trust
from shipway.remotes.registry.credentials import Credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials
from shipway.settings import RegistrySettings

Registries = Mapping[str, RegistrySettings]
"""How to speak to registries, by `host[:port]`."""
_ALL_USUAL: Registries = MappingProxyType({})


def open_remote(reference: Reference, registries: Registries = _ALL_USUAL) -> Remote:
    """Return the remote for the place of `reference`; nothing is sent before its first use. Close it after."""
    if isinstance(reference, RegistryReference):
        return _open_with_mirrors(reference, registries)
    raise Invalid("nothing can open this kind of reference", where=str(reference))


def _open_with_mirrors(reference: RegistryReference, registries: Registries) -> Remote:
    own = _open_registry(reference, registries)
    settings = registries.get(reference.host)
    if settings is None or not settings.mirrors:
        return own
    mirrors = [RegistryReference.parse(f"oci://{mirror}") for mirror in settings.mirrors]
    prefixes = [mirror.partition("/")[2] for mirror in settings.mirrors]
    places = [
        replace(mirror, repository=f"{prefix}/{own.repository}" if prefix else own.repository)
        for mirror, prefix in zip(mirrors, prefixes, strict=True)
    ]
    return FallbackRemote(own, mirrors=[_open_registry(place, registries) for place in places])


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
