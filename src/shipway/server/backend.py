"""What the server needs from whatever it serves.

All methods are called from worker threads, several at a time. Errors are Shipway's own;
the server says in its answers what they mean in the OCI distribution API.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from shipway.oci import Descriptor


class BlobWriter(Protocol):
    """A blob on its way in. A context manager; leaving it uncommitted removes what was written.

    Used from several threads, never from two at a time, for as long as an upload takes.
    """

    @property
    def size(self) -> int:
        """The bytes written so far."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append bytes. Raises `NoSpace`."""

    def commit(self, digest: str, /) -> None:
        """Make the blob visible, at once and whole; `DigestMismatch` if it is not what `digest` says."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Backend(Protocol):
    """Repositories of manifests, and the blobs they all share.

    Names, tags and digests have been checked for their form before they get here. A `target` is a tag or a digest.
    """

    def manifest(self, repository: str, target: str, /) -> tuple[Descriptor, bytes]:
        """Return a manifest and its descriptor; `NotFound`. May take long, if it has to be made first."""

    def put_manifest(self, repository: str, target: str, media_type: str, data: bytes, /) -> Descriptor:
        """Store a manifest under its digest, and under `target` if that is a tag.

        Raises `Invalid` if something it refers to is not there, `UnknownMediaType` or `Corrupt`
        if it is nothing that can be kept.
        """

    def delete_manifest(self, repository: str, digest: str, /) -> None:
        """Remove a manifest and the tags that name it; `NotFound`."""

    def delete_tag(self, repository: str, tag: str, /) -> None:
        """Remove a tag; `NotFound`."""

    def blob_path(self, digest: str, /) -> tuple[Path, int]:
        """Return a blob's file and its size; `NotFound`."""

    def ingest(self) -> BlobWriter:
        """Return a writer for a new blob."""

    def repositories(self) -> list[str]:
        """Return the names of all repositories."""

    def tags(self, repository: str, after: str, limit: int, /) -> list[str]:
        """Return the first tags of a repository that come after a name, in order; `RepositoryNotFound`."""
