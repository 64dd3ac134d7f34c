"""Shipway: build caches as refs that can be mounted, changed, committed and moved.

The names below are the public face. They are imported when first used, so that
the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipway.cache import Cache, KeyRecord
    from shipway.errors import (
        Corrupt,
        DigestMismatch,
        Invalid,
        Locked,
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
    from shipway.limits import Limits
    from shipway.progress import Progress, ProgressCallback
    from shipway.refs import (
        CachePolicy,
        Extractable,
        Extracted,
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

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "CachePolicy",
    "Corrupt",
    "DigestMismatch",
    "Extractable",
    "Extracted",
    "Finding",
    "ImmutableRef",
    "Invalid",
    "KeyRecord",
    "Limits",
    "LocalImmutableRef",
    "Locked",
    "Metadata",
    "Mount",
    "Mountable",
    "MutableRef",
    "NoSpace",
    "NotFound",
    "Progress",
    "ProgressCallback",
    "PruneDecision",
    "Pushed",
    "RecordType",
    "Ref",
    "RemoteImmutableRef",
    "RepositoryNotFound",
    "ShipwayError",
    "SizeMismatch",
    "TooLarge",
    "Traffic",
    "Truncated",
    "Unauthorized",
    "Unavailable",
    "UnknownMediaType",
    "UnsafeEntry",
    "UsageRecord",
    "Verdict",
    "__version__",
]

_MODULES = ("errors", "limits", "progress", "refs", "cache")


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
