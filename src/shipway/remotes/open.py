"""From a reference to the remote that holds it."""

from __future__ import annotations

from types import MappingProxyType

from shipway.references import BucketReference, FileReference, Reference, RegistryReference
from shipway.remotes.contract import Registries, Remote, Unfinished
from shipway.remotes.files import DockerArchive, LayoutRemote, Tar, WritableLayout

_ALL_USUAL: Registries = MappingProxyType({})


def open_remote(reference: Reference, registries: Registries = _ALL_USUAL) -> Remote:
    """Return the remote for the place of `reference`, to be read from, by way of its mirrors.

    Nothing is sent before its first use. Close it after.
    """
    if isinstance(reference, RegistryReference):
        from shipway.remotes.registry.opening import open_mirrored  # noqa: PLC0415  the HTTP client takes 0.1 s to load

        return open_mirrored(reference, registries)
    return open_target(reference, registries)


def open_target(
    reference: Reference, registries: Registries = _ALL_USUAL, unfinished: Unfinished | None = None
) -> Remote:
    """Return the remote for just the place of `reference`, to be written to: what its mirrors have is not there.

    With `unfinished` uploads are gone on with that an earlier process began.
    """
    if isinstance(reference, RegistryReference):
        from shipway.remotes.registry.opening import open_registry  # noqa: PLC0415  see above

        return open_registry(reference, registries, unfinished=unfinished)
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
