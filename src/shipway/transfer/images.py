"""Images: what a registry holds of a tree, read and written.

A tree is one OCI image: its layers, base first, and a configuration that
lists their DiffIDs, so that any OCI client can pull it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, UnknownMediaType
from shipway.layers.compression import compression_of
from shipway.oci import Descriptor, ImageConfig, Index, Manifest
from shipway.remotes.contract import Remote

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
MAX_LAYERS = 10_000
INDEX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Image:
    """An image manifest as it was found, checked for sense: its layers are of types we read."""

    name: str
    descriptor: Descriptor
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes of all layers, as stored."""
        return sum(layer.size for layer in self.manifest.layers)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that an image is to be made of."""

    descriptor: Descriptor
    diff_id: str
    created: int
    description: str


def find_image(remote: Remote, target: str) -> Image:
    """Return the image that a tag or digest names, going through indexes to this machine's platform.

    Raises what `Remote.manifest` raises, `UnknownMediaType` for a manifest or layer
    that is none of ours, `Corrupt` for one that makes no sense.
    """
    for _ in range(INDEX_DEPTH):
        descriptor, data = remote.manifest(target)
        where = f"{remote.name}@{descriptor.digest}"
        if descriptor.media_type in oci.MANIFEST_TYPES:
            return Image(where, descriptor, parse_manifest(data, where))
        if descriptor.media_type not in oci.INDEX_TYPES:
            raise UnknownMediaType(f"a manifest of the unknown type {descriptor.media_type!r}", where=where)
        target = _for_this_machine(oci.decode(data, Index, where), where)
    raise Corrupt(f"indexes nested more than {INDEX_DEPTH} deep", where=remote.name)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return an image manifest whose digests, sizes and layer types make sense; else a typed error."""
    manifest = oci.decode(data, Manifest, where)
    if len(manifest.layers) > MAX_LAYERS:
        raise Corrupt(f"{len(manifest.layers)} layers, more than {MAX_LAYERS}", where=where)
    for descriptor in (manifest.config, *manifest.layers):
        try:
            oci.check_digest(descriptor.digest, where)
        except Invalid as error:
            raise Corrupt(error.what, where=where) from error
        if descriptor.size < 0:
            raise Corrupt(f"{descriptor.digest} of {descriptor.size} bytes", where=where)
    for layer in manifest.layers:
        compression_of(layer.media_type)
    return manifest


def _for_this_machine(index: Index, where: str) -> str:
    mine = (_architecture(), "linux")
    for entry in index.manifests:
        if entry.media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES) and (
            (entry.platform.architecture, entry.platform.os) in (mine, ("", ""))
        ):
            return oci.check_digest(entry.digest, where)
    raise NotFound(f"the index has no image for {mine[1]}/{mine[0]}", where=where)


def read_diff_ids(remote: Remote, image: Image) -> list[str]:
    """Return the DiffIDs of an image's layers: from its configuration, else from annotations.

    Raises `Corrupt` if they do not fit the layers.
    """
    config = image.manifest.config
    layers = image.manifest.layers
    if config.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
        diff_ids = [layer.annotations.get(oci.UNCOMPRESSED, "") for layer in layers]
    else:
        if config.size > oci.MAX_CONFIG:
            raise Corrupt(f"a configuration of {config.size} bytes", where=image.name)
        with remote.read_blob(config) as pieces:
            data = b"".join(pieces)
        diff_ids = list(parse_config(data, config, image.name).rootfs.diff_ids)
    return check_diff_ids(diff_ids, image.manifest, image.name)


def parse_config(data: bytes, descriptor: Descriptor, where: str) -> ImageConfig:
    """Return an image configuration whose bytes fit its descriptor."""
    oci.verify(data, descriptor.digest, descriptor.size, f"{where}: configuration {descriptor.digest}")
    return oci.decode(data, ImageConfig, where)


def check_diff_ids(diff_ids: Sequence[str], manifest: Manifest, where: str) -> list[str]:
    """Return `diff_ids` if they are digests and one for each layer, else raise `Corrupt`."""
    if len(diff_ids) != len(manifest.layers):
        raise Corrupt(f"{len(diff_ids)} DiffIDs for {len(manifest.layers)} layers", where=where)
    for diff_id in diff_ids:
        try:
            oci.check_digest(diff_id, where)
        except Invalid as error:
            raise Corrupt(f"DiffID: {error.what}", where=where) from error
    return list(diff_ids)


def make_image(layers: Sequence[Layer]) -> tuple[bytes, Descriptor, bytes, Descriptor]:
    """Return (configuration, its descriptor, manifest, its descriptor) of an image of `layers`.

    A function of its arguments (and the machine's architecture) alone.
    """
    created = _time(layers[-1].created)
    config = oci.encode(
        ImageConfig(
            created=created,
            architecture=_architecture(),
            os="linux",
            rootfs=oci.RootFS(diff_ids=tuple(layer.diff_id for layer in layers)),
            history=tuple(
                oci.History(created=_time(layer.created), created_by="shipway", comment=layer.description)
                for layer in layers
            ),
        )
    )
    config_descriptor = Descriptor(media_type=oci.CONFIG, digest=oci.sha256(config), size=len(config))
    manifest = oci.encode(
        Manifest(
            schema_version=2,
            media_type=oci.MANIFEST,
            config=config_descriptor,
            layers=tuple(oci.annotated(layer.descriptor, {oci.UNCOMPRESSED: layer.diff_id}) for layer in layers),
            annotations={"org.opencontainers.image.created": created},
        )
    )
    return (
        config,
        config_descriptor,
        manifest,
        Descriptor(media_type=oci.MANIFEST, digest=oci.sha256(manifest), size=len(manifest)),
    )


def _architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
