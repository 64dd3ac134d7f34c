"""Images: what a registry holds of a tree, read and written.

A tree is one OCI image: its layers, base first, and a configuration that
lists their DiffIDs, so that any OCI client can pull it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, UnknownMediaType
from shipway.layers.compression import compression_of, distributable
from shipway.oci import Descriptor, ImageConfig, Index, Manifest, ManifestDescriptor, Platform
from shipway.remotes.contract import Remote, until_right

MAX_LAYERS = 10_000
MAX_SIZE = 1 << 62
"""Largest size of a blob that a manifest may state."""
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


def find_image(remote: Remote, target: str, platform: Platform | None = None) -> Image:
    """Return the image that a tag or digest names, going through indexes to that for `platform`.

    Without a platform it is this machine's, or an image that stands alone whatever it is for. Raises what
    `Remote.manifest` raises, `NotFound` if there is none for the platform, `UnknownMediaType` for
    a manifest or layer that is none of ours, `Corrupt` for one that makes no sense.
    """
    chosen = False
    for _ in range(INDEX_DEPTH):
        descriptor, data = remote.manifest(target)
        where = f"{remote.name}@{descriptor.digest}"
        if descriptor.media_type in oci.MANIFEST_TYPES:
            image = Image(where, descriptor, parse_manifest(data, where))
            if platform is not None and not chosen:
                _check_platform(remote, image, platform)
            return image
        if descriptor.media_type not in oci.INDEX_TYPES:
            raise UnknownMediaType(f"a manifest of the unknown type {descriptor.media_type!r}", where=where)
        entry = _choose(oci.decode(data, Index, where), platform, where)
        target, chosen = _digest(entry.digest, where), entry.platform.os != ""
    raise Corrupt(f"indexes nested more than {INDEX_DEPTH} deep", where=remote.name)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return an image manifest whose digests, sizes and layer types make sense; else a typed error."""
    manifest = oci.decode(data, Manifest, where)
    if len(manifest.layers) > MAX_LAYERS:
        raise Corrupt(f"{len(manifest.layers)} layers, more than {MAX_LAYERS}", where=where)
    for descriptor in (manifest.config, *manifest.layers):
        _digest(descriptor.digest, where)
        if not 0 <= descriptor.size <= MAX_SIZE:
            raise Corrupt(f"{descriptor.digest} of {descriptor.size} bytes", where=where)
    for layer in manifest.layers:
        compression_of(layer.media_type, where)
    return manifest


def _choose(index: Index, platform: Platform | None, where: str) -> ManifestDescriptor:
    """Return the entry for a platform: one that names just this, else one of another variant if none was asked for."""
    wanted = platform or Platform.of_this_machine()
    entries = [entry for entry in index.manifests if entry.media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES)]
    exact = [entry for entry in entries if entry.platform.normalized() == wanted]
    close = [entry for entry in entries if not wanted.variant and _is_for(entry.platform, wanted)]
    silent = [entry for entry in entries if entry.platform == Platform()]
    for entry in (*exact, *close, *silent):
        return entry
    offered = ", ".join(dict.fromkeys(str(entry.platform) for entry in entries))[:200]
    raise NotFound(f"the index has no image for {wanted}", where=where, todo=f"it has {offered}" if offered else "")


def _is_for(found: Platform, wanted: Platform) -> bool:
    found = found.normalized()
    return (found.os, found.architecture) == (wanted.os, wanted.architecture)


def _check_platform(remote: Remote, image: Image, wanted: Platform) -> None:
    """Raise `NotFound` if an image says that it is for another platform."""
    if image.manifest.config.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
        raise NotFound(f"does not say that it is for {wanted}", where=image.name)
    config = read_config(remote, image)
    found = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    if not _is_for(found, wanted) or (wanted.variant and found.normalized() != wanted):
        raise NotFound(f"the image is for {found}, not for {wanted}", where=image.name)


def read_diff_ids(remote: Remote, image: Image) -> list[str]:
    """Return the DiffIDs of an image's layers: from its configuration, else from annotations.

    Raises `Corrupt` if they do not fit the layers.
    """
    if image.manifest.config.media_type in (oci.CONFIG, oci.DOCKER_CONFIG):
        diff_ids = list(read_config(remote, image).rootfs.diff_ids)
    else:
        diff_ids = [layer.annotations.get(oci.UNCOMPRESSED, "") for layer in image.manifest.layers]
    return check_diff_ids(diff_ids, image.manifest, image.name)


def read_config(remote: Remote, image: Image) -> ImageConfig:
    """Fetch an image's configuration. Raises what the remote raises, `Corrupt` if it is none."""
    config = image.manifest.config
    if config.size > oci.MAX_CONFIG:
        raise Corrupt(f"a configuration of {config.size} bytes", where=image.name)

    def read() -> ImageConfig:
        with remote.read_blob(config) as pieces:
            return parse_config(b"".join(pieces), config, image.name)

    return until_right(read)


def parse_config(data: bytes, descriptor: Descriptor, where: str) -> ImageConfig:
    """Return an image configuration whose bytes fit its descriptor."""
    oci.verify(data, descriptor.digest, descriptor.size, f"{where}: configuration {descriptor.digest}")
    return oci.decode(data, ImageConfig, where)


def check_diff_ids(diff_ids: Sequence[str], manifest: Manifest, where: str) -> list[str]:
    """Return `diff_ids` if they are digests and one for each layer, else raise `Corrupt`."""
    if len(diff_ids) != len(manifest.layers):
        raise Corrupt(f"{len(diff_ids)} DiffIDs for {len(manifest.layers)} layers", where=where)
    return [_digest(diff_id, f"{where}: DiffID") for diff_id in diff_ids]


def _digest(found: str, where: str) -> str:
    """Return a digest that a document holds; `Corrupt` if it is none, since nobody asked for that."""
    try:
        return oci.check_digest(found, where)
    except Invalid as error:
        raise Corrupt(error.what, where=where) from error


def make_image(layers: Sequence[Layer]) -> tuple[bytes, Descriptor, bytes, Descriptor]:
    """Return (configuration, its descriptor, manifest, its descriptor) of an image of `layers`.

    A function of its arguments (and the machine's architecture) alone.
    """
    created = _time(layers[-1].created)
    config = oci.encode(
        ImageConfig(
            created=created,
            architecture=Platform.of_this_machine().architecture,
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
            layers=tuple(
                oci.annotated(distributable(layer.descriptor), {oci.UNCOMPRESSED: layer.diff_id}) for layer in layers
            ),
            annotations={"org.opencontainers.image.created": created},
        )
    )
    return (
        config,
        config_descriptor,
        manifest,
        Descriptor(media_type=oci.MANIFEST, digest=oci.sha256(manifest), size=len(manifest)),
    )


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
