"""Shipway: build caches as refs that can be mounted, changed, committed and moved.

The names below are the public face. They are imported when first used, so that
the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipway.cache import Cache
    from shipway.config import Config, PrunePolicy
    from shipway.errors import (
        Conflict,
        Corrupt,
        DigestMismatch,
        Invalid,
        Locked,
        Missing,
        NoSpace,
        NotFound,
        RepositoryNotFound,
        ShipwayError,
        SizeMismatch,
        TooLarge,
        Truncated,
        Unauthorized,
        Unavailable,
        UnknownMediaType,
        UnsafeEntry,
    )
    from shipway.explanations import Answer, Asked, Explanation, LayerPulled, Pulled, Way
    from shipway.keys import KeyRecord
    from shipway.limits import Limits
    from shipway.progress import Overall, Progress, ProgressCallback, Tally
    from shipway.refs import (
        CachePolicy,
        Extractable,
        Extracted,
        FileStat,
        Finding,
        ImmutableRef,
        LocalImmutableRef,
        Metadata,
        Mount,
        Mountable,
        MutableRef,
        PruneDecision,
        Pushed,
        RecordType,
        Ref,
        RemoteImmutableRef,
        Traffic,
        UsageRecord,
        Verdict,
    )
    from shipway.settings import LimitSettings, RegistrySettings

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Asked",
    "Cache",
    "CachePolicy",
    "Config",
    "Conflict",
    "Corrupt",
    "DigestMismatch",
    "Explanation",
    "Extractable",
    "Extracted",
    "FileStat",
    "Finding",
    "ImmutableRef",
    "Invalid",
    "KeyRecord",
    "LayerPulled",
    "LimitSettings",
    "Limits",
    "LocalImmutableRef",
    "Locked",
    "Metadata",
    "Missing",
    "Mount",
    "Mountable",
    "MutableRef",
    "NoSpace",
    "NotFound",
    "Overall",
    "Progress",
    "ProgressCallback",
    "PruneDecision",
    "PrunePolicy",
    "Pulled",
    "Pushed",
    "RecordType",
    "Ref",
    "RegistrySettings",
    "RemoteImmutableRef",
    "RepositoryNotFound",
    "ShipwayError",
    "SizeMismatch",
    "Tally",
    "TooLarge",
    "Traffic",
    "Truncated",
    "Unauthorized",
    "Unavailable",
    "UnknownMediaType",
    "UnsafeEntry",
    "UsageRecord",
    "Verdict",
    "Way",
    "__version__",
]

_MODULES = ("errors", "limits", "progress", "refs", "explanations", "settings", "config", "keys", "cache")


def __getattr__(name: str) -> object:
    """Return a public name, imported from the module that defines it."""
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"shipway.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module 'shipway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
