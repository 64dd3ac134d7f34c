"""A remote around others: what the decorators in this room have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.contract import Expected, Remote


class WrappedRemote:
    """Hands everything on to one remote; implements `Remote`."""

    def __init__(self, remote: Remote) -> None:
        """Take over `remote`, which is closed with this one."""
        self._remote = remote
        self.name = remote.name

    @property
    def traffic(self) -> Traffic:
        """All that has been moved so far."""
        return self._remote.traffic

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, and its descriptor."""
        return self._remote.manifest(target)

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Store a manifest under its digest, and under `tag` if that is as `expected`."""
        self._remote.put_manifest(descriptor, data, tag=tag, expected=expected)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""
        return self._remote.has_blob(descriptor)

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """Open a stream over a blob; see `BlobSource.read_blob`."""
        return self._remote.read_blob(descriptor, offset, length)

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Upload a blob; see `Remote.put_blob`."""
        self._remote.put_blob(descriptor, open_blob, sent, mount_from=mount_from)

    def tags(self) -> Iterator[str]:
        """Yield the tags."""
        return self._remote.tags()

    def close(self) -> None:
        """Let go of connections."""
        self._remote.close()
