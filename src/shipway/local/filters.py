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
from collections.abc import Callable, Iterable

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


def parse_filters(filters: Iterable[str]) -> Match:
    """Return whether a record is meant by `filters`; by none every one is. `Invalid` for one that is no filter."""
    alternatives = [_parse(one) for one in filters]
    if not alternatives:
        return lambda _record: True
    return lambda record: any(matches(record) for matches in alternatives)


def _parse(text: str) -> Match:
    terms: list[Match] = []
    position = 0
    while True:
        found = _TERM.match(text, position)
        if found is None:
            raise Invalid("not a filter", where=text, todo="write `type==regular,description~=PATTERN` or `inuse`")
        name, operator, value, end = found.groups()
        terms.append(_term(text, name, operator, value))
        position = found.end()
        if end != ",":
            return lambda record: all(matches(record) for matches in terms)


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
    wanted = value[1:-1].replace('\\"', '"') if value.startswith('"') else value
    if operator in ("==", "!="):
        return lambda record: (field(record) == wanted) is (operator == "==")
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise Invalid(f"not a regular expression: {error}", where=text) from error
    return lambda record: bool(pattern.search(field(record))) is (operator == "~=")
