"""A remote over the OCI distribution API."""

from shipway.remotes.registry.client import RegistryRemote
from shipway.remotes.registry.credentials import Credentials, find_credentials
from shipway.remotes.registry.logins import remove_credentials, store_credentials
from shipway.remotes.registry.opening import log_in, log_out
from shipway.remotes.registry.transport import Limits
from shipway.remotes.registry.trust import Trust

__all__ = [
    "Credentials",
    "Limits",
    "RegistryRemote",
    "Trust",
    "find_credentials",
    "log_in",
    "log_out",
    "remove_credentials",
    "store_credentials",
]
