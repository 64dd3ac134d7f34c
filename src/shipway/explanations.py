"""Why a key hit or missed, and how a ref was pulled: the values that say so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Way(StrEnum):
    """How a layer came to be here."""

    HERE = "here"
    """It was in the store, as a layer over the same ones."""
    UNPACKED = "unpacked"
    """Its blob was in the store."""
    ASSEMBLED = "assembled"
    """It was put together of contents that were in the store and ranges of its blob."""
    FETCHED = "fetched"
    """Its blob was fetched."""


@dataclass(frozen=True, slots=True)
class LayerPulled:
    """How one layer was pulled, and where its bytes came from."""

    digest: str
    """Of its blob, where it was pulled from."""
    diff_id: str
    size: int
    """Bytes of that blob."""
    way: Way
    reason: str
    """Why it went that way, in a line for people."""
    tables: int = 0
    """Bytes fetched to know what is in it."""
    ranges: int = 0
    """Bytes fetched by ranges."""
    whole: int = 0
    """Bytes of the whole blob that were fetched."""
    resumed: int = 0
    """Bytes of the blob that had come in an earlier attempt."""
    deduplicated: int = 0
    """Bytes of content that were taken from elsewhere in the store."""

    @property
    def fetched(self) -> int:
        """All bytes that were fetched for it."""
        return self.tables + self.ranges + self.whole


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a ref was pulled: from where, when (in UTC), and each layer, base first."""

    reference: str
    at: datetime
    layers: tuple[LayerPulled, ...]

    @property
    def fetched(self) -> int:
        """All bytes of layers that were fetched."""
        return sum(layer.fetched for layer in self.layers)


class Answer(StrEnum):
    """What a place said when it was asked for a key."""

    HIT = "hit"
    MISS = "miss"
    ERROR = "error"
    """It could not be asked, or what it has cannot be used."""
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Asked:
    """A place where a key is looked up, in the order in which they are, and what it answered."""

    place: str
    """The name of a remote, or `this store`."""
    answer: Answer
    reason: str
    """In a line for people."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a key hits or misses, or how a ref came to be here."""

    subject: str
    """The key, or the id."""
    tag: str | None
    """The tag that the key has in registries; None for a ref."""
    id: str | None
    """The ref that was found, or the reference of the image at a remote; None for a miss."""
    asked: tuple[Asked, ...]
    pulled: Pulled | None
    """How it was pulled, or what it stands on; None if nothing was."""
