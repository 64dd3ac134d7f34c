"""A registry kept in plain files: what the server is tested with before there is a store behind it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from shipway import oci
from shipway.errors import Invalid, NotFound, RepositoryNotFound
from shipway.oci import Descriptor


class FileWriter:
    """A blob on its way into a directory."""

    def __init__(self, blobs: Path, ingest: Path) -> None:
        self._blobs = blobs
        self._ingest = ingest
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._path = Path()
        self.size = 0

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(dir=self._ingest)
        self._path = Path(name)
        self._file = open(descriptor, "wb", buffering=0)
        return self

    def write(self, data: bytes | memoryview, /) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def commit(self, digest: str) -> None:
        oci.check_match("sha256:" + self._hash.hexdigest(), digest, "upload")
        os.rename(self._path, self._blobs / digest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        self._path.unlink(missing_ok=True)


class DirectoryBackend:
    """Blobs, manifests with their media types, and tags: one file each."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.ingesting = root / "ingest"
        self._repositories = root / "repositories"
        self._lock = threading.Lock()
        for directory in (self.blobs, self.ingesting, self._repositories):
            directory.mkdir(parents=True)

    def _at(self, repository: str, kind: str) -> Path:
        return self._repositories / repository.replace("/", "+") / kind

    def manifest(self, repository: str, target: str, /) -> tuple[Descriptor, bytes]:
        try:
            digest = target if ":" in target else (self._at(repository, "tags") / target).read_text()
            path = self._at(repository, "manifests") / digest
            data, media_type = path.read_bytes(), path.with_suffix(".type").read_text()
        except FileNotFoundError:
            raise NotFound("no such manifest", where=f"{repository} {target}") from None
        return Descriptor(media_type=media_type, digest=digest, size=len(data)), data

    def put_manifest(self, repository: str, target: str, media_type: str, data: bytes) -> Descriptor:
        content = msgspec.json.decode(data)
        needed = [content["config"], *content["layers"]] if "config" in content else []
        for blob in needed:
            if not (self.blobs / blob["digest"]).exists():
                raise Invalid(f"refers to the blob {blob['digest']}, which is not here")
        digest = oci.sha256(data)
        with self._lock:
            for kind in ("manifests", "tags"):
                self._at(repository, kind).mkdir(parents=True, exist_ok=True)
            path = self._at(repository, "manifests") / digest
            path.write_bytes(data)
            path.with_suffix(".type").write_text(media_type)
            if ":" not in target:
                (self._at(repository, "tags") / target).write_text(digest)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def delete_manifest(self, repository: str, digest: str) -> None:
        self.manifest(repository, digest)
        with self._lock:
            for tag in self._at(repository, "tags").iterdir():
                if tag.read_text() == digest:
                    tag.unlink()
            (self._at(repository, "manifests") / digest).unlink()

    def delete_tag(self, repository: str, tag: str) -> None:
        try:
            (self._at(repository, "tags") / tag).unlink()
        except FileNotFoundError:
            raise NotFound("no such tag", where=f"{repository}:{tag}") from None

    def blob_path(self, digest: str) -> tuple[Path, int]:
        path = self.blobs / digest
        try:
            return path, path.stat().st_size
        except FileNotFoundError:
            raise NotFound("no such blob", where=digest) from None

    def ingest(self) -> FileWriter:
        return FileWriter(self.blobs, self.ingesting)

    def repositories(self) -> list[str]:
        return [path.name.replace("+", "/") for path in self._repositories.iterdir()]

    def tags(self, repository: str, after: str, limit: int) -> list[str]:
        try:
            names = sorted(os.listdir(self._at(repository, "tags")))
            return [name for name in names if name > after][:limit]
        except FileNotFoundError:
            raise RepositoryNotFound("no such repository", where=repository) from None
