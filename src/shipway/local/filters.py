"""Filters of records, in BuildKit's syntax.

A filter is terms joined by commas, all of which must hold; of several filters one must. A term is

    FIELD            the record has such a thing: inuse, mutable, immutable, shared, private, parents, …
    FIELD==VALUE     it is just that             FIELD!=VALUE     it is not
    FIELD~=PATTERN   the pattern is found in it  FIELD!~=PATTERN  it is not found

with the fields `id`, `type`, `description` and `parents` (ids joined by `;`). A value with a comma in it
is put in double quotes. Patterns are regular expressions, as Python has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shipway.errors import Invalid
from shipway.refs import UsageRecord

Match = Callable[[UsageRecord], bool]

_FLAGS: dict[str, Match] = {
    "inuse": lambda record: record.in_use,
    "mutable": lambda record: record.mutable,
    "immutable": lambda record: not record.mutable,
    "shared": lambda record: record.shared,
    "private": lambda record: not record.shared,
}
_TEXTS: dict[str, Callable[[UsageRecord], str]] = {
    "id": lambda record: record.id,
    "type": lambda record: record.record_type.value,
    "description": lambda record: record.description,
    "parents": lambda record: ";".join(record.parents),
}
_TERM = re.compile(r'\s*([a-z]+)\s*(?:(==|!=|~=|!~=)\s*("(?:[^"\\]|\\.)*"|[^",]*))?(,|$)')


class Filters:
    """What some filters mean; a function that says whether it means a record."""

    def __init__(self, alternatives: Sequence[_Filter]) -> None:
        self._alternatives = alternatives

    @property
    def ids(self) -> set[str] | None:
        """The ids of all records that can be meant; None if that may be any."""
        ids = {one.id for one in self._alternatives}
        return {one for one in ids if one is not None} if ids and None not in ids else None

    def __call__(self, record: UsageRecord) -> bool:
        """Whether a record is meant."""
        return not self._alternatives or any(one.matches(record) for one in self._alternatives)


def parse_filters(filters: Iterable[str]) -> Filters:
    """Return what `filters` mean; by none every record is meant. `Invalid` for one that is no filter."""
    return Filters([_parse(one) for one in filters])


@dataclass(frozen=True, slots=True)
class _Filter:
    terms: Sequence[Match]
    id: str | None
    """The only id that can be meant, if it says so."""

    def matches(self, record: UsageRecord) -> bool:
        return all(matches(record) for matches in self.terms)


def _parse(text: str) -> _Filter:
    terms: list[Match] = []
    wanted: str | None = None
    position = 0
    while True:
        found = _TERM.match(text, position)
        if found is None:
            raise Invalid("not a filter", where=text, todo="write `type==regular,description~=PATTERN` or `inuse`")
        name, operator, value, end = found.groups()
        terms.append(_term(text, name, operator, value))
        if (name, operator) == ("id", "=="):
            wanted = _unquoted(value)
        position = found.end()
        if end != ",":
            return _Filter(terms, wanted)


def _term(text: str, name: str, operator: str | None, value: str | None) -> Match:
    if name in _FLAGS:
        if operator is not None:
            raise Invalid(f"{name!r} is yes or no and takes no value", where=text, todo=f"write just `{name}`")
        return _FLAGS[name]
    if name not in _TEXTS:
        known = ", ".join([*_TEXTS, *_FLAGS])
        raise Invalid(f"there is no field {name!r}", where=text, todo=f"choose one of {known}")
    field = _TEXTS[name]
    if operator is None:
        return lambda record: bool(field(record))
    assert value is not None
    wanted = _unquoted(value)
    if operator in ("==", "!="):
        return lambda record: (field(record) == wanted) is (operator == "==")
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise Invalid(f"not a regular expression: {error}", where=text) from error
    return lambda record: bool(pattern.search(field(record))) is (operator == "~=")


def _unquoted(value: str) -> str:
    return value[1:-1].replace('\\"', '"') if value.startswith('"') else value
