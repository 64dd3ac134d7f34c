"""Cache keys: which ref each names, here and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from shipway.elsewhere import Elsewhere
from shipway.errors import NotFound
from shipway.explaining import explain_key
from shipway.explanations import Explanation
from shipway.handles import LocalHandle
from shipway.local.store import Store
from shipway.oci import key_tag
from shipway.references import Reference
from shipway.remote_handles import RemoteHandle
from shipway.remotes.contract import Expected


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A cache key and the ref it names."""

    key: str
    id: str
    updated: datetime


class Keys:
    """The keys of one store, and of the remotes where it asks for those that it has not."""

    def __init__(self, store: Store, elsewhere: Elsewhere) -> None:
        """Keep them in `store`, and ask `elsewhere` after it."""
        self._store = store
        self._elsewhere = elsewhere

    def put(self, key: str | bytes, ref: LocalHandle, *, push_to: str | None, only_if_absent: bool) -> None:
        """Make `key` name `ref`; see `Cache.put`."""
        ref.finalize()
        if push_to is None:
            self._store.tags.put_key(_raw(key), ref.id, only_if_absent=only_if_absent)
            return
        target = Reference.parse(push_to).at(tag=key_tag(key))
        if only_if_absent:
            ref.push_to(target, expected=Expected())
        self._store.tags.put_key(_raw(key), ref.id)
        if not only_if_absent:
            ref.push_to(target)

    def lookup(self, key: str | bytes) -> LocalHandle | RemoteHandle | None:
        """Return the ref that `key` names, or None; see `Cache.lookup`."""
        tag = self._store.tags.get_key(_raw(key))
        if tag is not None and tag.record is not None:
            with suppress(NotFound):
                return LocalHandle(self._store, self._store.records.hold_immutable(tag.record))
            self._store.tags.delete(tag.repository, tag.name)
        return self._elsewhere.image_of_key(key)

    def explain(self, key: str | bytes) -> Explanation:
        """Return what `lookup` finds now and why; see `Cache.explain`."""
        return explain_key(self._store, self._elsewhere.remotes, self._elsewhere.whole_image, _raw(key))

    def records(self, ref_id: str | None) -> Iterator[KeyRecord]:
        """Yield the keys that were put here, or those that name one ref, in order."""
        tags = self._store.tags
        for tag in tags.with_keys() if ref_id is None else tags.with_keys_of(ref_id):
            if tag.record is not None and tag.key is not None:
                key = tag.key.decode("utf-8", "surrogateescape")
                yield KeyRecord(key, tag.record, datetime.fromtimestamp(tag.updated / 1e9, UTC))


def _raw(key: str | bytes) -> bytes:
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
