"""How commands name refs: an id, a unique prefix of one, `key:NAME`, or a reference such as `oci://…`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipway.errors import Invalid, NotFound
from shipway.refs import LocalImmutableRef, RemoteImmutableRef

if TYPE_CHECKING:
    from shipway.cache import Cache

KEY = "key:"
AnyRef = LocalImmutableRef | RemoteImmutableRef


def is_reference(text: str) -> bool:
    """Whether `text` names an image somewhere else; a key may hold anything."""
    return "://" in text and not text.startswith(KEY)


def any_ref(cache: Cache, text: str) -> AnyRef:
    """Return the immutable ref that `text` names, here or elsewhere. `NotFound`, `Invalid`."""
    if is_reference(text):
        return cache.remote(text)
    if not text.startswith(KEY):
        return cache.get(cache.find(text))
    found = cache.lookup(text.removeprefix(KEY))
    if found is None:
        raise NotFound("no such key", where=text, todo="`shipway key ls` lists the keys of this store")
    return found


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
