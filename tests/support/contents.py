"""Blobs and manifests to move about."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import BinaryIO

from shipway import oci
from shipway.oci import Descriptor
from shipway.remotes import Remote


def blob(data: bytes, media_type: str = oci.LAYER_TAR) -> Descriptor:
    """Return the descriptor of `data`."""
    return Descriptor(media_type=media_type, digest=oci.sha256(data), size=len(data))


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes that are the same each time, and do not compress."""
    return random.Random(seed).randbytes(size)


def opening(data: bytes) -> Callable[[], BinaryIO]:
    """Return what `put_blob` wants: a function that opens `data` anew."""
    return lambda: io.BytesIO(data)


def put(remote: Remote, data: bytes, media_type: str = oci.LAYER_TAR) -> Descriptor:
    """Upload `data` and return its descriptor."""
    descriptor = blob(data, media_type)
    remote.put_blob(descriptor, opening(data), lambda _size: None)
    return descriptor


def read(remote: Remote, descriptor: Descriptor, offset: int = 0, length: int | None = None) -> bytes:
    """Return a range of a blob."""
    with remote.read_blob(descriptor, offset, length) as pieces:
        return b"".join(bytes(piece) for piece in pieces)


def manifest_of(config: Descriptor, *layers: Descriptor, media_type: str = oci.MANIFEST) -> tuple[Descriptor, bytes]:
    """Return a manifest, and its descriptor."""
    data = oci.encode(oci.Manifest(schema_version=2, media_type=media_type, config=config, layers=layers))
    return blob(data, media_type), data


def put_image(remote: Remote, *layers: bytes, tag: str | None = None) -> tuple[Descriptor, bytes]:
    """Upload an image of these layers and return its manifest."""
    config = put(remote, b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}', oci.CONFIG)
    descriptor, data = manifest_of(config, *(put(remote, layer) for layer in layers))
    remote.put_manifest(descriptor, data, tag=tag)
    return descriptor, data
