"""How refs are named in one line: an id, a unique prefix of one, `key:NAME`, or a reference such as `oci://…`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipway.errors import NotFound
from shipway.refs import AnyRef

if TYPE_CHECKING:
    from shipway.cache import Cache

KEY = "key:"


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
