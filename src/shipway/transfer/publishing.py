"""Indexes of layers beside their image: published for others, taken by who trusts them.

They are one OCI artifact whose subject is the image's manifest: registries that list referrers list it, and as not
all do it also has a tag made of the image's digest. Anyone who may push there can put one, and it says what bytes to
believe: so it is never looked for. It is taken by its digest, from somebody who is trusted, and what it holds by the
digests in it; from then on an index is as good as one that was made here.
"""

from __future__ import annotations

import io
from functools import partial

import msgspec

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound
from shipway.layers.chunked import MAX_TABLE
from shipway.layers.formats import contents_of
from shipway.layers.index import MEDIA_TYPE, Index
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.remotes.contract import Remote, until_right
from shipway.transfer.images import Image
from shipway.transfer.plain import PlainLayer
from shipway.transfer.sources import HereFirst
from shipway.trees.spool import Spool

LAYER = "dev.shipway.layer"
"""Annotation of an index: the digest of the layer's blob."""
_EMPTY = Descriptor(media_type="application/vnd.oci.empty.v1+json", digest=oci.sha256(b"{}"), size=2)


class _Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    schema_version: int
    media_type: str
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None


def tag_of(image: Image) -> str:
    """Return the tag that an image's indexes have."""
    return image.descriptor.digest.replace(":", "-") + ".shipway-index"


def publish_indexes(store: Store, remote: Remote, image: Image) -> str:
    """Put indexes of the image's layers that have no table of contents beside it; return the digest to take them by.

    Layers that the store has no index of are read for that, all of them. `NotFound` if there is nothing to publish.
    """
    indexes: list[Descriptor] = []
    for layer in {one.digest: one for one in image.manifest.layers}.values():
        data = _index(store, remote, layer)
        if data is not None:
            blob = Descriptor(
                media_type=MEDIA_TYPE, digest=oci.sha256(data), size=len(data), annotations={LAYER: layer.digest}
            )
            _put(remote, blob, data)
            indexes.append(blob)
    if not indexes:
        raise NotFound("none of its layers can have an index", where=image.name)
    _put(remote, _EMPTY, b"{}")
    data = oci.encode(
        _Artifact(
            schema_version=2,
            media_type=oci.MANIFEST,
            artifact_type=MEDIA_TYPE,
            config=_EMPTY,
            layers=tuple(indexes),
            subject=Descriptor(
                media_type=image.descriptor.media_type, digest=image.descriptor.digest, size=image.descriptor.size
            ),
        )
    )
    descriptor = Descriptor(media_type=oci.MANIFEST, digest=oci.sha256(data), size=len(data))
    remote.put_manifest(descriptor, data, tag=tag_of(image))
    return descriptor.digest


def take_indexes(store: Store, remote: Remote, image: Image, digest: str) -> int:
    """Keep the indexes of the image's layers that the artifact with a trusted `digest` holds; return how many.

    Raises `NotFound` if it is not there, `Invalid` if it is of another image, `Corrupt` for what is no index.
    """
    oci.check_digest(digest)
    _, data = remote.manifest(digest)
    where = f"{remote.name}@{digest}"
    oci.check_match(oci.sha256(data), digest, where)
    artifact = oci.decode(data, _Artifact, where)
    layers = {layer.digest: layer for layer in image.manifest.layers}
    wanted = [(layers.get(blob.annotations.get(LAYER, "")), blob) for blob in artifact.layers]
    found = [(layer, blob) for layer, blob in wanted if layer is not None and blob.media_type == MEDIA_TYPE]
    if not found:
        raise Invalid("holds no index of this image's layers", where=where, todo=f"the image is {image.name}")
    for layer, blob in found:
        if blob.size > MAX_TABLE:
            raise Corrupt(f"an index of {blob.size} bytes", where=where)
        index = until_right(partial(_read, remote, blob, where))
        store.indexes.save(layer, _parsed(index, layer, where))
    return len(found)


def _index(store: Store, remote: Remote, layer: Descriptor) -> bytes | None:
    if contents_of(layer) is not None:
        return None
    known = store.indexes.load(layer)
    if known is not None:
        return b"".join(known.data.pieces())
    plain = PlainLayer(HereFirst(store, remote), layer, store.limits, store.indexes)
    plain.entries()
    return b"".join(plain.index.pieces()) if plain.index is not None else None


def _parsed(data: bytes, layer: Descriptor, where: str) -> Spool:
    index = Index(Spool(data), layer)
    index.parse(data, where)
    return index.data


def _read(remote: Remote, blob: Descriptor, where: str) -> bytes:
    with remote.read_blob(blob) as pieces:
        data = b"".join(pieces)
        oci.verify(data, blob.digest, blob.size, where)
    return data


def _put(remote: Remote, blob: Descriptor, data: bytes) -> None:
    if not remote.has_blob(blob):
        remote.put_blob(blob, lambda: io.BytesIO(data))
