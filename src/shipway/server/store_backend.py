"""A cache as what the registry serves.

The repository `shipway` publishes the store's keys (as the tags that `oci.key_tag`
gives) and its immutable refs (by id). What is pushed becomes refs of the store, in any
repository: a push of a key's tag is a put of that key.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from shipway import oci
from shipway.cache import Cache
from shipway.errors import Invalid, NotFound, RepositoryNotFound
from shipway.local.blobs import Ingest
from shipway.local.rows import Record
from shipway.local.store import Store
from shipway.oci import DEFAULT_REPOSITORY, Descriptor, Document
from shipway.transfer.images import check_diff_ids, parse_config, parse_manifest
from shipway.transfer.pull import pull
from shipway.transfer.push import ensure_manifest


class StoreBackend:
    """Implements `server.backend.Backend` over a cache's store."""

    def __init__(self, cache: Cache) -> None:
        """Serve `cache`, which stays open as long as this is used."""
        self._store = cache.store

    def manifest(self, repository: str, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest that a tag or digest names; a ref without a blob is packed now."""
        if target.startswith("sha256:"):
            return self._store.tags.manifest(target)
        tag = self._store.tags.get(repository, target)
        if tag is not None and tag.manifest is not None:
            return self._store.tags.manifest(tag.manifest)
        record_id = tag.record if tag is not None else None
        if record_id is None and repository == DEFAULT_REPOSITORY:
            record = self._store.records.find(target)
            record_id = record.id if record is not None and not record.mutable else None
        if record_id is None:
            raise NotFound("no such tag", where=f"{repository}:{target}")
        return self._manifest_of(record_id)

    def _manifest_of(self, record_id: str) -> tuple[Descriptor, bytes]:
        record = self._store.records.hold_immutable(record_id)
        try:
            descriptor, data, _ = ensure_manifest(self._store, self._store.finalize(record))
        finally:
            self._store.drop_snapshots(self._store.records.release(record.id))
        return descriptor, data

    def put_manifest(self, repository: str, target: str, media_type: str, data: bytes) -> Descriptor:
        """Store a manifest whose blobs are here; an image becomes a ref, its layers verified and unpacked now.

        Raises `Invalid` for a blob that is not here, `Corrupt` for a layer that is not what it should be.
        """
        descriptor = Descriptor(media_type=media_type, digest=oci.sha256(data), size=len(data))
        where = f"{repository}@{descriptor.digest}"
        if target.startswith("sha256:"):
            oci.check_match(descriptor.digest, target, where)
        document = oci.decode(data, Document, where)
        for blob in document.blobs:
            if self._store.blobs.get(oci.check_digest(blob.digest, where)) is None:
                raise Invalid(f"refers to the blob {blob.digest}, which is not here", where=where, todo="push it first")
        for child in document.manifests:
            try:
                self._store.tags.manifest(child.digest)
            except NotFound as error:
                raise Invalid(f"refers to the manifest {child.digest}, which is not here", where=where) from error
        record = self._adopt(descriptor, data, where)
        try:
            self._store.tags.put_manifest(
                descriptor,
                data,
                [one.digest for one in (*document.blobs, *document.manifests)],
                record=record.id if record is not None else None,
                subject=document.subject.digest if document.subject is not None else None,
            )
            if not target.startswith("sha256:"):
                record_id = record.id if record is not None else None
                self._store.tags.put(repository, target, record=record_id, manifest=descriptor.digest)
        finally:
            if record is not None:
                self._store.drop_snapshots(self._store.records.release(record.id))
        return descriptor

    def _adopt(self, descriptor: Descriptor, data: bytes, where: str) -> Record | None:
        """Return the held record of an image whose blobs are all here; None for what is no image of a tree."""
        if descriptor.media_type not in oci.MANIFEST_TYPES:
            return None
        config = oci.decode(data, Document, where).config
        if config is None or config.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
            return None
        manifest = parse_manifest(data, where)
        if not manifest.layers:
            return None
        with self._store.blobs.open(config.digest) as file:
            parsed = parse_config(file.read(oci.MAX_CONFIG + 1), config, where)
        diff_ids = check_diff_ids(parsed.rootfs.diff_ids, manifest, where)
        return pull(self._store, where, manifest.layers, diff_ids, remote=None).record

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; `NotFound` if there is none. The ref that it named stays."""
        if not self._store.tags.delete(repository, tag):
            raise NotFound("no such tag", where=f"{repository}:{tag}")

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; `NotFound` if it is not here."""
        if not self._store.tags.delete_manifest(digest):
            raise NotFound("no such manifest", where=f"{repository}@{digest}")

    def blob_path(self, digest: str) -> tuple[Path, int]:
        """Return a blob's file and its size in bytes; `NotFound` if it is not here."""
        descriptor = self._store.blobs.get(digest)
        if descriptor is None:
            raise NotFound("no such blob in this store", where=digest)
        return self._store.blobs.path(digest), descriptor.size

    def ingest(self) -> StoreBlobWriter:
        """Return where a blob is written to as it arrives."""
        return StoreBlobWriter(self._store)

    def repositories(self) -> list[str]:
        """Return the names of the repositories."""
        return self._store.tags.repositories()

    def tags(self, repository: str, after: str, limit: int) -> list[str]:
        """Return the first tags of a repository after a name, in order; `RepositoryNotFound` for one that has none."""
        tags = self._store.tags
        if repository == DEFAULT_REPOSITORY:
            return tags.names_and_records(repository, after, limit)
        names = tags.names(repository, after, limit)
        if not names and not tags.names(repository, "", 1):
            raise RepositoryNotFound("no such repository", where=repository)
        return names


class StoreBlobWriter:
    """A blob on its way into the store."""

    def __init__(self, store: Store) -> None:
        """Write into the store's `ingest/`."""
        self._store = store
        self._ingest: Ingest = store.blobs.ingest()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._ingest.size()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; `NoSpace` if the disk is full."""
        self._ingest.write(data)

    def commit(self, digest: str) -> None:
        """Make it a blob of the store if it hashes to `digest`; else `DigestMismatch`."""
        self._ingest.check(oci.check_digest(digest))
        descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=self._ingest.size())
        self._store.blobs.keep(self._ingest, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ingest.__exit__(kind, error, trace)
