"""From a reference to the remote that holds it."""

from __future__ import annotations

from shipway.oci import Reference
from shipway.remotes.contract import Remote
from shipway.remotes.registry import RegistryRemote


def open_remote(reference: Reference) -> Remote:
    """Return the remote for the repository of `reference`; nothing is sent before its first use. Close it after."""
    return RegistryRemote(reference)
