"""What `docker save` and skopeo's `docker-archive:` write, shown as an OCI layout.

`manifest.json` lists images: a configuration, the names of layers' files, tags. Layers are plain tars, so that their
digests are the DiffIDs in the configuration; a newer docker stores them as `blobs/sha256/<hex>`, perhaps
compressed. Whatever is claimed here is checked like any blob when it is read.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound
from shipway.oci import Descriptor, ImageConfig, Index, Manifest, ManifestDescriptor
from shipway.remotes.checks import PIECE, check_manifest_size
from shipway.remotes.files.layout import FULL_NAME, INDEX, REF_NAME, blob_path
from shipway.remotes.files.stored import Memory, Section, Tar

_LIST = "manifest.json"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_MAX_IMAGES = 1000
_COMPRESSED = {b"\x1f\x8b": oci.LAYER_GZIP, b"\x28\xb5\x2f\xfd": oci.LAYER_ZSTD}


class _Image(msgspec.Struct, frozen=True):
    """One image of the list; the names on the wire begin with capitals."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers")
    tags: tuple[str, ...] | None = msgspec.field(name="RepoTags", default=None)


class DockerArchive:
    """The files of an OCI layout with the images of a docker archive; implements `Stored`. Thread-safe."""

    def __init__(self, path: str) -> None:
        """Show the archive at `path`; it is read on first use."""
        self._path = path
        self._tar = Tar(path)
        self._lock = threading.Lock()
        self._files: dict[str, Section] | None = None

    @contextmanager
    def open(self, name: str) -> Iterator[Section]:
        """Yield a file of the layout; `NotFound`, `Corrupt`."""
        with self._lock:
            if self._files is None:
                self._files = self._convert()
            section = self._files.get(name)
        if section is None:
            raise NotFound("no such file in the archive", where=f"{self._path}: {name!r}")
        yield section

    def close(self) -> None:
        """Close the archive."""
        with self._lock:
            self._tar.close()
            self._files = None

    def _convert(self) -> dict[str, Section]:
        if _LIST not in self._tar:
            raise Invalid(f"has no {_LIST}: not a docker archive", where=self._path, todo="try oci-archive://")
        listed = self._read(_LIST, oci.MAX_MANIFEST)
        images = oci.decode(listed, tuple[_Image, ...], f"{self._path}: {_LIST}")
        if len(images) > _MAX_IMAGES:
            raise Corrupt(f"lists {len(images)} images", where=self._path)
        files: dict[str, Section] = {}
        entries: list[ManifestDescriptor] = []
        for image in images:
            manifest = self._image(image, files)
            full = [name for name in image.tags or () if ":" in name and oci.is_tag(name.rpartition(":")[2])]
            names = [{REF_NAME: name.rpartition(":")[2], FULL_NAME: name} for name in dict.fromkeys(full)] or [{}]
            digest = oci.sha256(manifest)
            entries += [
                ManifestDescriptor(media_type=oci.MANIFEST, digest=digest, size=len(manifest), annotations=name)
                for name in names
            ]
            files[blob_path(digest)] = Memory(manifest)
        index = Index(schema_version=2, media_type=oci.INDEX, manifests=tuple(entries))
        files[INDEX] = Memory(oci.encode(index))
        return files

    def _image(self, image: _Image, files: dict[str, Section]) -> bytes:
        """Return the manifest of one image, having put its blobs into `files`."""
        data = self._read(image.config, oci.MAX_CONFIG)
        where = f"{self._path}: {image.config[:200]!r}"
        diff_ids = oci.decode(data, ImageConfig, where).rootfs.diff_ids
        if len(diff_ids) != len(image.layers):
            raise Corrupt(f"{len(diff_ids)} DiffIDs for {len(image.layers)} layers", where=where)
        config = Descriptor(media_type=oci.CONFIG, digest=oci.sha256(data), size=len(data))
        files[blob_path(config.digest)] = Memory(data)
        layers = []
        for name, diff_id in zip(image.layers, diff_ids, strict=True):
            section = self._tar.find(name)
            layer = _describe(name, section, diff_id, f"{self._path}: {name[:200]!r}")
            files[blob_path(layer.digest)] = section
            layers.append(layer)
        return oci.encode(Manifest(schema_version=2, media_type=oci.MANIFEST, config=config, layers=tuple(layers)))

    def _read(self, name: str, most: int) -> bytes:
        section = self._tar.find(name)
        if section.size > most:
            check_manifest_size(section.size, f"{self._path}: {name[:200]!r}")
            raise Corrupt(f"{section.size} bytes, more than {most}", where=f"{self._path}: {name[:200]!r}")
        return section.read(0, section.size)


def _describe(name: str, section: Section, diff_id: str, where: str) -> Descriptor:
    """Return the descriptor of a layer's file."""
    start = section.read(0, 4)
    compressed = next((kind for sign, kind in _COMPRESSED.items() if start.startswith(sign)), "")
    named = _BLOB.fullmatch(name)
    if named:
        digest = f"sha256:{named[1]}"
    elif compressed:
        digest = _digest(section)
    else:
        digest = _checked(diff_id, where)
    return Descriptor(media_type=compressed or oci.LAYER_TAR, digest=digest, size=section.size)


def _checked(diff_id: str, where: str) -> str:
    try:
        return oci.check_digest(diff_id)
    except Invalid as error:
        raise Corrupt(f"DiffID: {error.what}", where=where) from error


def _digest(section: Section) -> str:
    digest = hashlib.sha256()
    for offset in range(0, section.size, PIECE):
        digest.update(section.read(offset, PIECE))
    return "sha256:" + digest.hexdigest()
