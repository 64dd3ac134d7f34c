"""Which layers a tree is made of: the arithmetic of merges and differences.

A record's tree is a list of layers, base first, each of which is a record with a layer of its own:

- a *layer* has those of its parent, and itself;
- a *merge* has those of its inputs, one after the other. Of a layer that comes several times
  the last one counts: what it held before, it holds again, and what was in between is laid over either way;
- a *diff* has those that its upper input has on top of its lower one, if the lower's are the upper's first ones.
  Otherwise it is a layer itself, made by comparing the two trees when somebody first looks.

So merging and comparing touch no file, and a merge is exported as the very layers of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from shipway.local.rows import Kind


class Node(Protocol):
    """What is asked here of a record."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def kind(self) -> Kind:
        """What it makes of its parents."""

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of its parents."""


One = TypeVar("One", bound=Node)


def layers(record: One, get: Callable[[str], One]) -> list[One]:
    """Return the layers of a record's tree, base first; `get` returns a record by its id."""
    own: list[One] = []
    while record.kind == "layer":
        own.append(record)
        if not record.parents:
            return own[::-1]
        record = get(record.parents[0])
    below = _merged(record, get) if record.kind == "merge" else _between(record, get)
    return below + own[::-1]


def below(record: One, get: Callable[[str], One]) -> list[One]:
    """Return the layers that a layer, or a diff that is one, was made over."""
    return layers(get(record.parents[0]), get) if record.parents else []


def is_in_place(found: Sequence[One], get: Callable[[str], One]) -> list[bool]:
    """Say of each layer of a tree whether it stands over just those that it was made over."""
    answers: list[bool] = []
    for index, record in enumerate(found):
        if record.kind == "layer" and index and answers[-1] and record.parents == (found[index - 1].id,):
            answers.append(True)
        else:
            answers.append([one.id for one in below(record, get)] == [one.id for one in found[:index]])
    return answers


def _merged(record: One, get: Callable[[str], One]) -> list[One]:
    found = [layer for parent in record.parents for layer in layers(get(parent), get)]
    last = {layer.id: index for index, layer in enumerate(found)}
    return [layer for index, layer in enumerate(found) if last[layer.id] == index]


def _between(record: One, get: Callable[[str], One]) -> list[One]:
    if len(record.parents) > 1:
        lower = [layer.id for layer in layers(get(record.parents[0]), get)]
        upper = layers(get(record.parents[1]), get)
        if len(upper) > len(lower) and [layer.id for layer in upper[: len(lower)]] == lower:
            return upper[len(lower) :]
    return [record]
