"""What commands want of the refs that they are given names of (`shipway.naming`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipway.errors import Invalid
from shipway.naming import KEY, any_ref, is_reference
from shipway.refs import LocalImmutableRef, RemoteImmutableRef

if TYPE_CHECKING:
    from shipway.cache import Cache

__all__ = ["KEY", "any_ref", "is_reference", "local_ref", "record_id"]


def local_ref(cache: Cache, text: str) -> LocalImmutableRef:
    """Return the ref of this store that `text` names; `Invalid` if it is somewhere else."""
    ref = any_ref(cache, text)
    # Asked this way round since isinstance() reads every member on Python 3.11, and `parent` is a hold.
    if isinstance(ref, RemoteImmutableRef):
        ref.release()
        raise Invalid("is not in this store", where=text, todo=f"bring it here with `shipway pull {text}`")
    return ref


def record_id(cache: Cache, text: str) -> str:
    """Return the full id of the record, mutable or not, that `text` names in this store."""
    if text.startswith(KEY) or is_reference(text):
        with local_ref(cache, text) as ref:
            return ref.id
    return cache.find(text)
