"""OCI vocabulary: digests, descriptors, manifests, configurations.

Values only; nothing here touches a disk or a network. Field names on the wire
follow the OCI image specification 1.1 and the distribution specification 1.1.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from shipway.errors import Corrupt, DigestMismatch, Invalid, SizeMismatch, Truncated

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER_TAR + "+gzip"
LAYER_ZSTD = LAYER_TAR + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER_TAR + ".gzip"

MANIFEST_TYPES = (MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (INDEX, DOCKER_INDEX)

#: Annotation, used by containerd and BuildKit, that holds a layer's DiffID.
UNCOMPRESSED = "containerd.io/uncompressed"

MAX_MANIFEST = 4 << 20
"""Largest manifest or index read, in bytes; registries refuse larger ones."""
MAX_CONFIG = 64 << 20
"""Largest image configuration read, in bytes."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PLATFORM_PART = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armhf": "arm",
    "i686": "386",
    "i386": "386",
}
#: What an architecture means when no variant is named (containerd and Docker agree on these).
_USUAL_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}

DEFAULT_REPOSITORY = "shipway"
DEFAULT_TAG = "latest"

T = TypeVar("T")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A content descriptor: media type, digest and size in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()
    """Where else it may be had from; only layers that may not be distributed have some."""


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image runs on (image-spec, image-index.md)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`, such as `linux/arm64`; `Invalid` for anything else."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_PLATFORM_PART.fullmatch(part) for part in parts):
            raise Invalid("not a platform", where=repr(text[:100]), todo="write os/architecture[/variant]")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) > 2 else "").normalized()  # noqa: PLR2004

    @classmethod
    def of_this_machine(cls) -> Platform:
        """Return what images must be for to run here."""
        return cls(os="linux", architecture=platform.machine()).normalized()

    def normalized(self) -> Platform:
        """Return it by the names that images use: one for each architecture, no variant where it is the usual one."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        variant = "" if self.variant == _USUAL_VARIANTS.get(architecture) else self.variant
        return Platform(os=self.os, architecture=architecture, variant=variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class ManifestDescriptor(Descriptor, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A descriptor inside an index, which may name a platform."""

    platform: Platform = Platform()


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image manifest (image-spec, manifest.md); Docker's schema 2 reads as the same."""

    schema_version: int = msgspec.field(default_factory=lambda: 0)
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image index (image-spec, image-index.md); Docker's manifest list reads as the same."""

    schema_version: int = msgspec.field(default_factory=lambda: 0)
    media_type: str = ""
    manifests: tuple[ManifestDescriptor, ...]
    annotations: dict[str, str] = {}


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What any manifest or index says about what it is and refers to."""

    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs that must be there before it may be."""
        return (*((self.config,) if self.config else ()), *self.layers)

    @property
    def kind(self) -> str:
        """Its media type; where it does not say, what its form implies; empty if that says nothing."""
        return self.media_type or (MANIFEST if self.config else INDEX if self.manifests else "")


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The DiffIDs of an image's layers, base first."""

    type: str = "layers"
    diff_ids: tuple[str, ...]


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer came to be, for people."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image configuration (image-spec, config.md); only what Shipway reads or writes."""

    created: str = ""
    architecture: str
    os: str
    variant: str = ""
    config: dict[str, msgspec.Raw] = {}
    rootfs: RootFS
    history: tuple[History, ...] = ()


def encode(value: msgspec.Struct) -> bytes:
    """Return the JSON of a manifest, index or configuration; equal values give equal bytes."""
    return msgspec.json.encode(value, order="deterministic")


def decode(data: bytes, kind: type[T], where: str) -> T:
    """Return `data` read as `kind`; `Corrupt`, naming `where`, if it is not that."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"not a well-formed {kind.__name__.lower()}: {error}", where=where) from error


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Return the digest string of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_digest(digest: str, where: str = "") -> str:
    """Return `digest` if it is `sha256:` and 64 lower-case hex digits; else `Invalid`."""
    if not _DIGEST.fullmatch(digest):
        raise Invalid(f"not a sha256 digest: {digest[:100]!r}", where=where)
    return digest


def verify(data: bytes | bytearray | memoryview, digest: str, size: int, where: str) -> None:
    """Raise `Truncated`, `SizeMismatch` or `DigestMismatch` unless `data` is what it should be."""
    check_size(len(data), size, where)
    check_match(sha256(data), digest, where)


def check_size(actual: int, expected: int, where: str) -> None:
    """Raise `Truncated` or `SizeMismatch` unless the sizes, in bytes, agree."""
    if actual < expected:
        raise Truncated(f"ended after {actual} of {expected} bytes", where=where)
    if actual > expected:
        raise SizeMismatch(f"has {actual} bytes where {expected} were promised", where=where)


def check_match(actual: str, expected: str, where: str) -> None:
    """Raise `DigestMismatch` unless the digests agree."""
    if actual != expected:
        raise DigestMismatch(f"content is {actual}, not {expected}", where=where)


def chain_id(parent: str | None, diff_id: str) -> str:
    """Return the ChainID of a layer over its parent's (image-spec, config.md, Layer ChainID)."""
    return diff_id if parent is None else sha256(f"{parent} {diff_id}".encode())


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Return the ChainID of each prefix of `diff_ids`, base first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


def annotated(descriptor: Descriptor, extra: Mapping[str, str]) -> Descriptor:
    """Return `descriptor` with `extra` annotations laid over its own."""
    return msgspec.structs.replace(descriptor, annotations={**descriptor.annotations, **extra})


def is_tag(name: str) -> bool:
    """Whether `name` is a valid tag (distribution-spec, Pulling manifests)."""
    return _TAG.fullmatch(name) is not None


def is_repository(name: str) -> bool:
    """Whether `name` is a valid repository name (distribution-spec, Pulling manifests)."""
    return len(name) <= 255 and _REPOSITORY.fullmatch(name) is not None  # noqa: PLR2004  the specification's length


def key_tag(key: str | bytes) -> str:
    """Return the tag that stands for a cache key in a registry: `key-` and the key's sha256."""
    raw = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return "key-" + hashlib.sha256(raw).hexdigest()
