"""Tables of the configuration: how registries are spoken to, and what layers may claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shipway.errors import Invalid
from shipway.limits import Limits
from shipway.quantities import duration, size
from shipway.references import RegistryReference

_MOST = 1000


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A table of the file: each field is a key, with `-` for `_`."""


class RegistrySettings(Table, frozen=True, kw_only=True):
    """How one registry is spoken to: a `[registry."HOST"]` table. `Invalid` for values that make no sense."""

    mirrors: tuple[str, ...] = ()
    """`host[:port][/prefix]` of registries that are asked first, in order, for what is read; never pushed to."""
    insecure: bool = False
    """Its certificate is not checked, and plain HTTP will do if it does not speak TLS."""
    ca: Path | None = None
    """A PEM file of the authorities that its certificate is checked with, besides the system's."""
    client_cert: Path | None = None
    """A PEM file of the certificate that is shown to it."""
    client_key: Path | None = None
    """The PEM file of that certificate's key; by default it is in the same file."""

    timeout: str | None = None
    """How long it may say nothing, or too little, before that is a failure; 60 seconds by default."""
    attempts: int = 5
    """How often a request is sent before its failure is final."""
    connections: int = 16
    """How many connections it gets at a time."""

    @property
    def seconds(self) -> float | None:
        """The timeout in seconds, None for the default."""
        return duration(self.timeout, where="timeout") if self.timeout is not None else None

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the files, which others than the one in use may lack."""
        for index, mirror in enumerate(self.mirrors):
            with inside(f"mirrors[{index}]", ": "):
                RegistryReference.parse(f"oci://{mirror}")
                if {"@", ":"} & set(mirror.partition("/")[2]):
                    raise Invalid("has a tag or a digest", where=repr(mirror), todo="write host[:port][/prefix]")
        if self.seconds is not None and self.seconds <= 0:
            raise Invalid("must be more than nothing", where="timeout")
        for name in ("attempts", "connections"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise Invalid(f"must be between 1 and {_MOST}", where=name)
        if self.client_key is not None and self.client_cert is None:
            raise Invalid("is of no use without client-cert", where="client-key")


class LimitSettings(Table, frozen=True, kw_only=True):
    """What a layer may claim: the `[limits]` table. `Invalid` for values that make no sense."""

    size: str | None = None
    """Most bytes that it may inflate to, and most that its files may have together; 256 GiB by default."""
    entries: int | None = None
    """Most entries; 4,000,000 by default."""
    ratio: int | None = None
    """How many times its own size it may inflate to, once that is more than a gibibyte; 1000 by default."""

    def __post_init__(self) -> None:
        """Check that the values make limits."""
        _ = self.value

    @property
    def value(self) -> Limits:
        """The limits that it means."""
        found = size(self.size, where="size") if self.size is not None else None
        if found is not None and found.percent is not None:
            raise Invalid("a share of no disk in particular", where="size", todo="write 10GB or 512MiB")
        amount = found.amount if found is not None else None
        given = {"size": amount, "entries": self.entries, "ratio": self.ratio}
        return Limits(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def inside(outer: str, joint: str = ".") -> Iterator[None]:
    """Say of what is found `Invalid` in the block that it is inside of `outer`."""
    try:
        yield
    except Invalid as error:
        where = joint.join(filter(None, (outer, error.where)))
        raise Invalid(error.what, where=where, todo=error.todo) from error
