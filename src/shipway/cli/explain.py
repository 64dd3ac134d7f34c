"""explain: why a key hit or missed, and where the bytes of a ref came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shipway.cli import documents, naming, text
from shipway.cli.session import InSession
from shipway.errors import Invalid, NotFound
from shipway.refs import Explanation, LayerPulled, Pulled

if TYPE_CHECKING:
    from shipway.cache import Cache


def explain(name: str, /, *, session: InSession) -> None:
    """Tell why a key hits or misses, and of a ref that was pulled which bytes came from where.

    Args:
        name: A key, with or without key: before it; or an id, or a unique prefix of one.
    """
    with session.open() as cache:
        found = _explained(cache, name)
    session.show(documents.explanation(found), _lines(found))


def _explained(cache: Cache, name: str) -> Explanation:
    if name.startswith(naming.KEY):
        return cache.explain(name.removeprefix(naming.KEY))
    if naming.is_reference(name):
        raise Invalid("neither a key nor a ref of this store", where=name, todo="pull it, then ask for its id")
    try:
        return cache.explain_ref(cache.find(name))
    except (NotFound, Invalid):  # then it is a key
        return cache.explain(name)


def _lines(found: Explanation) -> Iterator[str]:
    facts = [("key" if found.tag else "ref", found.subject), ("found", found.id or "nowhere")]
    yield from text.fields([*facts, *([("tag", found.tag)] if found.tag else [])])
    yield from text.table(
        ((one.place, one.answer.value, one.reason) for one in found.asked), ("place", "answer", "reason")
    )
    if found.pulled is not None:
        yield from _pulled(found.pulled)


def _pulled(report: Pulled) -> Iterator[str]:
    layers = text.plural(len(report.layers), "layer")
    yield f"pulled from {text.visible(report.reference)} at {text.when(report.at)}: {layers}"
    header = ("layer", "size", "way", "deduplicated", "tables", "ranges", "whole", "resumed", "reason")
    right = ("size", "deduplicated", "tables", "ranges", "whole", "resumed")
    yield from text.table(map(_row, report.layers), header, right=right, always_header=True)
    yield f"{text.size(report.fetched)} fetched of {text.size(sum(layer.size for layer in report.layers))}"


def _row(layer: LayerPulled) -> tuple[str, ...]:
    figures = (layer.deduplicated, layer.tables, layer.ranges, layer.whole, layer.resumed)
    return (
        layer.digest.removeprefix("sha256:")[:12],
        text.size(layer.size),
        layer.way.value,
        *map(text.size, figures),
        layer.reason,
    )
