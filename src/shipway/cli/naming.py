"""How commands name refs: an id, a unique prefix of one, `key:NAME`, or a reference such as `oci://…`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from shipway.errors import Invalid, NotFound
from shipway.refs import LocalImmutableRef, RemoteImmutableRef
from shipway.trees.entry import Tree

if TYPE_CHECKING:
    from shipway.cache import Cache

KEY = "key:"
AnyRef = LocalImmutableRef | RemoteImmutableRef


@runtime_checkable
class Readable(Protocol):
    """A ref whose tree can be listed and read, as those of `shipway.handles` can."""

    def tree(self) -> AbstractContextManager[Tree]:
        """Return a context manager that yields the tree."""


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


def tree_of(ref: AnyRef) -> AbstractContextManager[Tree]:
    """Return a context manager that yields the tree of a ref, here or elsewhere."""
    assert isinstance(ref, Readable)
    return ref.tree()


def record_id(cache: Cache, text: str) -> str:
    """Return the full id of the record, mutable or not, that `text` names in this store."""
    if text.startswith(KEY) or is_reference(text):
        with local_ref(cache, text) as ref:
            return ref.id
    return cache.find(text)
