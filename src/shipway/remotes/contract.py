"""The contract of a remote: a place that holds manifests and blobs under tags.

The unit is one repository. All errors are typed: `NotFound` (a manifest or
blob is not there), `RepositoryNotFound`, `Unauthorized`, `Unavailable` (no connection,
a server error after retries), `Conflict`, `Corrupt` and its kinds for bytes that are not
what their descriptor says. Thread-safe; one instance is shared by parallel transfers.

`tests/remotes/test_conformance.py` is what every remote must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

from shipway.errors import Corrupt, Unavailable
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.settings import RegistrySettings

Registries = Mapping[str, RegistrySettings]
"""How to speak to registries, by `host[:port]`."""


class RangesRefused(Unavailable):
    """The place answers ranges with whole blobs; `remotes.spooled` makes do with those."""


class Elsewhere(Corrupt):
    """What came of a blob was not right, and there is another place to ask: whoever reads it again reads it there."""


_T = TypeVar("_T")


def until_right(read: Callable[[], _T]) -> _T:
    """Return what `read` does, which checks what it reads; it reads again while there is another place to ask."""
    while True:
        try:
            return read()
        except Elsewhere:
            continue


@contextmanager
def judged(source: BlobSource, descriptor: Descriptor) -> Iterator[None]:
    """Let `Corrupt` that leaves the block tell of what is read of a blob in it, through whatever streams that came."""
    with source.read_blob(descriptor, 0, 0):
        yield


@dataclass(frozen=True, slots=True)
class Expected:
    """What a tag must name for a conditional write to go ahead: a manifest's digest, or nothing."""

    digest: str | None = None


class Unfinished(Protocol):
    """Where uploads that were begun are remembered for a later push, by a remote's name and the blob's digest.

    What is remembered is an address. It may carry secrets: it stands in no message. Thread-safe.
    """

    def take(self, place: str, digest: str) -> str | None:
        """Return where an upload can be gone on with that nobody else works at, None if there is none."""

    def note(self, place: str, digest: str, location: str) -> None:
        """Remember where the upload that the caller works at goes on."""

    def leave(self, place: str, digest: str) -> None:
        """Let anybody go on with it: the caller works at it no more."""

    def forget(self, place: str, digest: str) -> None:
        """Forget one that is done, or that cannot be gone on with."""


class BlobSource(Protocol):
    """Where blobs can be read from."""

    @property
    def name(self) -> str:
        """What to call it in messages, without credentials: its reference without a tag, such as `oci://host/repository`."""

    @property
    def traffic(self) -> Traffic:
        """All that it has moved so far."""

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """Open a stream over `length` bytes of a blob from `offset` on (all of it by default).

        Yields pieces of at most 1 MiB, each valid until the next. Leaving the block early stops the
        download. A range is never silently answered with the whole blob: `RangesRefused`, of which the rest
        of the blob has not been read. A connection that
        breaks is resumed where it broke. The pieces are *not* checked against the digest (a
        range cannot be); the sum of their lengths is: `Truncated`. So check them inside the block: where there are
        several places, `Corrupt` that leaves it becomes `Elsewhere` until all of them were asked.
        """

    def close(self) -> None:
        """Let go of connections."""


class Remote(BlobSource, Protocol):
    """One repository somewhere."""

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, and its descriptor.

        Its bytes have been checked against the digest, if one was asked for,
        else against the one that the server named. At most `oci.MAX_MANIFEST` bytes are read.
        """

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Store a manifest under its digest, and under `tag`. What it refers to must be there already.

        With `expected` the tag is written only if it is as expected at that very moment: of several writers one
        wins and the others get `Conflict`, unless they wrote the very same. `Invalid` from a remote that
        cannot do that, as no registry can.
        """

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = ...,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Upload a blob; `open_blob` opens its bytes anew for each attempt; `sent` hears of bytes as they go.

        `mount_from` is the name of another remote that may have the blob: what can take it from there sends nothing.

        The server's idea of the digest is compared: `DigestMismatch`.
        """

    def tags(self) -> Iterator[str]:
        """Yield the repository's tags."""
