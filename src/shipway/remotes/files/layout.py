"""An OCI image layout as a remote, to be read (image-spec, image-layout.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, RepositoryNotFound
from shipway.oci import DEFAULT_TAG, Descriptor, Index, ManifestDescriptor
from shipway.references import FileReference
from shipway.refs import Traffic
from shipway.remotes.checks import (
    PIECE,
    check_manifest_size,
    checked_target,
    describe_manifest,
    reading_range,
)
from shipway.remotes.contract import Expected
from shipway.remotes.files.stored import Section, Stored
from shipway.remotes.traffic import TrafficCounter

INDEX = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation that holds a manifest's name in a layout; BuildKit, skopeo and umoci write it too."""
FULL_NAME = "io.containerd.image.name"
"""Annotation that holds the name with its repository, where that is known."""
_NAMES = 10
"""Names that an error tells of at most."""


class LayoutRemote:
    """A layout in `files`; implements `shipway.remotes.contract.Remote`, all writes being refused. Thread-safe.

    What is counted as requests are looks at a blob or a manifest.
    """

    def __init__(self, reference: FileReference, files: Stored) -> None:
        """Read the layout that `files` hold; nothing is opened yet."""
        self.name = reference.place
        self._files = files
        # Tools that were given no name write a manifest without one: that is what such a reference means then.
        self._unnamed_is_default = reference.tag is None
        self._is_read_only = reference.scheme != "oci-layout"
        self._path = reference.path
        self._counter = TrafficCounter()

    @property
    def traffic(self) -> Traffic:
        """All that this remote has moved so far."""
        return self._counter.total

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, and its descriptor."""
        where = self._where(checked_target(target))
        self._counter.add(requests=1)
        digest = target if ":" in target else self._named(self._entries(), target).digest
        try:
            data = self._read(_blob(digest, where), where)
        except NotFound as error:
            raise NotFound("no such manifest", where=where) from error
        self._counter.add(received=len(data))
        return describe_manifest(data, digest, where), data

    def _entries(self) -> tuple[ManifestDescriptor, ...]:
        where = f"{self.name}/{INDEX}"
        try:
            data = self._read(INDEX, where)
        except NotFound as error:
            what = "no OCI layout is there" if os.path.exists(self._path) else "no such file or directory"
            raise RepositoryNotFound(what, where=self.name) from error
        return oci.decode(data, Index, where).manifests

    def _named(self, entries: tuple[ManifestDescriptor, ...], tag: str) -> ManifestDescriptor:
        named = [entry for entry in entries if entry.annotations.get(REF_NAME) == tag]
        if not named and tag == DEFAULT_TAG and self._unnamed_is_default:
            named = [entry for entry in entries if REF_NAME not in entry.annotations]
            named = named if len(named) == 1 else []
        if not named and tag == DEFAULT_TAG and self._unnamed_is_default and self._is_read_only:
            # The only image is meant, whatever its name: nothing can come beside it later.
            named = list(entries) if len({one.digest for one in entries}) == 1 else []
        if not named:
            names = sorted({name for one in entries if oci.is_tag(name := one.annotations.get(REF_NAME, ""))})
            more = ", …" if len(names) > _NAMES else ""
            todo = f"there are {', '.join(names[:_NAMES])}{more}" if names else ""
            raise NotFound("no such name in it", where=self._where(tag), todo=todo)
        full = {one.annotations[FULL_NAME]: one.digest for one in named if FULL_NAME in one.annotations}
        if self._is_read_only and len(set(full.values())) > 1:
            which = ", ".join(f"@{digest} for {name[:200]}" for name, digest in list(full.items())[:_NAMES])
            raise Invalid("several images have that name", where=self._where(tag), todo=f"write {which}")
        return named[-1]

    def _read(self, name: str, where: str) -> bytes:
        with self._files.open(name) as section:
            check_manifest_size(section.size, where)
            return b"".join(_pieces(section, 0, section.size))

    def tags(self) -> Iterator[str]:
        """Yield the names of manifests that can be tags."""
        self._counter.add(requests=1)
        names = (entry.annotations.get(REF_NAME, "") for entry in self._entries())
        yield from dict.fromkeys(name for name in names if oci.is_tag(name))

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""
        self._counter.add(requests=1)
        try:
            with self._files.open(_blob(descriptor.digest, self.name)) as section:
                return section.size == descriptor.size
        except NotFound:
            return False

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[memoryview]]:
        """Open a stream over `length` bytes of a blob from `offset` on (all of it by default)."""
        where = self._where(descriptor.digest)
        return reading_range(descriptor, offset, length, where, partial(self._opened, descriptor, where))

    @contextmanager
    def _opened(self, descriptor: Descriptor, where: str, start: int, end: int) -> Iterator[Iterator[bytes]]:
        self._counter.add(requests=1)
        with ExitStack() as stack:
            try:
                section = stack.enter_context(self._files.open(_blob(descriptor.digest, where)))
            except NotFound as error:
                raise NotFound("no such blob", where=where) from error
            oci.check_size(section.size, descriptor.size, where)
            yield self._counted(_pieces(section, start, end))

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._counter.add(received=len(piece))
            yield piece

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Refuse: `Invalid`."""
        del data, expected
        raise self._refused(tag or descriptor.digest)

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Refuse: `Invalid`."""
        del open_blob, sent, mount_from
        raise self._refused(descriptor.digest)

    def _refused(self, target: str) -> Invalid:
        return Invalid("an archive is not written to", where=self._where(target), todo="push to an OCI layout instead")

    def close(self) -> None:
        """Let go of what is open."""
        self._files.close()

    def _where(self, target: str) -> str:
        return f"{self.name}{'@' if ':' in target else ':'}{target}"


def blob_path(digest: str) -> str:
    """Return where a blob is in a layout; `Invalid` if `digest` is none."""
    return f"blobs/sha256/{oci.check_digest(digest).removeprefix('sha256:')}"


def _blob(digest: str, where: str) -> str:
    try:
        return blob_path(digest)
    except Invalid as error:
        raise Corrupt(error.what, where=where) from error


def _pieces(section: Section, offset: int, end: int) -> Iterator[bytes]:
    while offset < end and (piece := section.read(offset, min(PIECE, end - offset))):
        offset += len(piece)
        yield piece
