"""Why a key hit or missed, and how a ref came to be here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from shipway.errors import NotFound, ShipwayError
from shipway.explanations import Answer, Asked, Explanation, Pulled
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import key_tag
from shipway.references import Reference
from shipway.remote_handles import RemoteHandle

HERE = "this store"


Ask = Callable[[Reference], RemoteHandle]
"""Looks an image up as a lookup of a key does."""


def explain_key(store: Store, remotes: Iterable[Reference], ask: Ask, key: bytes) -> Explanation:
    """Return what a lookup of `key` would find now, and what each place answers; nothing is changed."""
    name = key_tag(key)
    found = ""
    asked = []
    for one, ref_id in _answers(store, remotes, ask, key):
        asked.append(one)
        found = found or ref_id
    here = asked[0].answer is Answer.HIT
    subject = key.decode("utf-8", "replace")
    return Explanation(subject, name, found or None, tuple(asked), how_pulled(store, found) if here else None)


def explain_ref(store: Store, record_id: str) -> Explanation:
    """Return how a ref came to be here."""
    record = store.records.get(record_id)
    one = Asked(HERE, Answer.HIT, _origin(store, record))
    return Explanation(record_id, None, record_id, (one,), how_pulled(store, record_id))


def how_pulled(store: Store, record_id: str) -> Pulled | None:
    """Return how a ref was pulled, or the nearest of those it stands on that was."""
    waiting = [record_id]
    while waiting:
        one = waiting.pop(0)
        report = store.reports.load(one)
        if report is not None:
            return report
        record = store.records.find(one)
        waiting += record.parents if record is not None else ()
    return None


def _answers(store: Store, remotes: Iterable[Reference], ask: Ask, key: bytes) -> Iterator[tuple[Asked, str]]:
    """Yield what each place says, each with the ref that it has or ""."""
    here, found = _ask_store(store, key)
    yield here, found
    for remote in remotes:
        if found:
            yield Asked(remote.place, Answer.NOT_ASKED, "a place before it has the key"), ""
        else:
            one, found = _ask_remote(remote.at(tag=key_tag(key)), ask)
            yield one, found


def _ask_store(store: Store, key: bytes) -> tuple[Asked, str]:
    tag = store.tags.get_key(key)
    if tag is None:
        return Asked(HERE, Answer.MISS, "the key was never put here, or is forgotten"), ""
    since = datetime.fromtimestamp(tag.updated / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    record = store.records.find(tag.record) if tag.record is not None else None
    if record is None:
        return Asked(HERE, Answer.MISS, f"the ref that it has named since {since} is gone"), ""
    return Asked(HERE, Answer.HIT, f"names {record.id} since {since}"), record.id


def _ask_remote(reference: Reference, ask: Ask) -> tuple[Asked, str]:
    try:
        with ask(reference) as ref:
            count = len(ref.layers)
            what = f"an image of {count} layer{'' if count == 1 else 's'}, {ref.size()} bytes"
            return Asked(reference.place, Answer.HIT, what), ref.id
    except NotFound as error:
        return Asked(reference.place, Answer.MISS, error.what), ""
    except ShipwayError as error:
        return Asked(reference.place, Answer.ERROR, str(error)), ""


def _origin(store: Store, record: Record) -> str:
    report = store.reports.load(record.id)
    if report is not None:
        return f"pulled from {report.reference}"
    parents = f" over {', '.join(record.parents)}" if record.parents else ""
    return f"a {record.kind} made here{parents}"
