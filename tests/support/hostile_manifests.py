"""Hostile manifests, configurations and indexes, one line each: how asking for the tree ends, and what is served.

`MANIFEST` stands for the document that is tagged: its media type and its bytes, made of a right one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, NotFound, ShipwayError, SizeMismatch, UnknownMediaType
from support.hostile import image, plain, reg

# fmt: off
Json = dict[str, Any]
LAYER = plain(reg("a"))
RIGHT = image(LAYER)
MANIFEST: Json = json.loads(RIGHT.manifest)
CONFIG: Json = json.loads(RIGHT.config)
OTHER = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Served:
    """What a registry says: the tagged document, its type, and all else it has by digest."""

    document: bytes
    media_type: str = oci.MANIFEST
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = (RIGHT.config, *RIGHT.blobs)


def manifest(**changes: Any) -> Served:
    return Served(json.dumps({**MANIFEST, **changes}).encode())


def layer(**changes: Any) -> Served:
    return manifest(layers=[{**MANIFEST["layers"][0], **changes}])


def config(raw: bytes) -> Served:
    """Serve any bytes as the configuration, under the right digest."""
    described = {"mediaType": oci.CONFIG, "digest": oci.sha256(raw), "size": len(raw)}
    return Served(json.dumps({**MANIFEST, "config": described}).encode(), blobs=(raw, *RIGHT.blobs))


def diff_ids(*found: Any) -> Served:
    return config(json.dumps({**CONFIG, "rootfs": {"type": "layers", "diff_ids": found}}).encode())


def index(*entries: Json, **changes: Any) -> Served:
    document = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": list(entries), **changes}
    return Served(json.dumps(document).encode(), oci.INDEX, {oci.sha256(RIGHT.manifest): RIGHT.manifest})


def entry(data: bytes = RIGHT.manifest, **changes: Any) -> Json:
    return {"mediaType": oci.MANIFEST, "digest": oci.sha256(data), "size": len(data), **changes}


def nested(depth: int) -> Served:
    """Serve indexes in indexes."""
    held = {oci.sha256(RIGHT.manifest): RIGHT.manifest}
    inner, kind = RIGHT.manifest, oci.MANIFEST
    for _ in range(depth):
        inner, kind = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry(inner, mediaType=kind)]}).encode(), oci.INDEX
        held[oci.sha256(inner)] = inner
    return Served(inner, kind, held)


DOCUMENTS: dict[str, tuple[type[ShipwayError] | None, Callable[[], Served]]] = {
    "as it should be": (None, manifest),
    "not JSON": (Corrupt, lambda: Served(b"manifest")),
    "nothing": (Corrupt, lambda: Served(b"")),
    "a list": (Corrupt, lambda: Served(b"[]")),
    "nested too deep": (Corrupt, lambda: Served(b'{"a":' * 100_000)),
    "5 MiB": (Corrupt, lambda: Served(b" " * (5 << 20) + RIGHT.manifest)),
    "another type inside": (Corrupt, lambda: manifest(mediaType=oci.INDEX)),
    "a type that there is not, around a right one": (None, lambda: Served(RIGHT.manifest, "text/html")),
    "no layers": (NotFound, lambda: Served(json.dumps({**MANIFEST, "layers": [], "config": json.loads(diff_ids().document)["config"]}).encode(), blobs=diff_ids().blobs)),
    "layers that are none": (Corrupt, lambda: manifest(layers="many")),
    "10,001 layers": (Corrupt, lambda: manifest(layers=MANIFEST["layers"] * 10_001)),
    "a layer more than the configuration has": (Corrupt, lambda: manifest(layers=MANIFEST["layers"] * 2)),
    "a layer's size below zero": (Corrupt, lambda: layer(size=-1)),
    "a layer's size of 2^64": (Corrupt, lambda: layer(size=2**64)),
    "a layer's size of 2^60": (Corrupt, lambda: layer(size=2**60)),
    "a layer's size that is no number": (Corrupt, lambda: layer(size="10")),
    "a layer's size that is not whole": (Corrupt, lambda: layer(size=10.5)),
    "a layer of a digest that is a path": (Corrupt, lambda: layer(digest="sha256:../../../etc/passwd")),
    "a layer of a digest of another kind": (Corrupt, lambda: layer(digest="md5:" + "0" * 32)),
    "a layer that is not there": (NotFound, lambda: layer(digest=OTHER)),
    "a layer of an unknown type": (UnknownMediaType, lambda: layer(mediaType="application/vnd.oci.image.layer.v1.tar+brotli")),
    "a layer of another compression": (Corrupt, lambda: layer(mediaType=oci.LAYER_ZSTD)),
    "annotations that are no text": (Corrupt, lambda: layer(annotations={"a": 1})),
    "a configuration that is the layer": (Corrupt, lambda: manifest(config={**MANIFEST["layers"][0], "mediaType": oci.CONFIG})),
    "a configuration of 65 MiB": (Corrupt, lambda: manifest(config={**MANIFEST["config"], "size": 65 << 20})),
    "a configuration of another size": (SizeMismatch, lambda: manifest(config={**MANIFEST["config"], "size": 10})),
    "a configuration that is not JSON": (Corrupt, lambda: config(b"configuration")),
    "a configuration nested too deep": (Corrupt, lambda: config(b'{"a":' * 100_000)),
    "a configuration without DiffIDs": (Corrupt, lambda: config(b'{"architecture":"","os":"linux"}')),
    "no DiffIDs": (Corrupt, diff_ids),
    "a DiffID more": (Corrupt, lambda: diff_ids(LAYER.diff_id, LAYER.diff_id)),
    "a DiffID that is none": (Corrupt, lambda: diff_ids("sha256:..")),
    "a DiffID that is no text": (Corrupt, lambda: diff_ids(1)),
    "another DiffID": (DigestMismatch, lambda: diff_ids(OTHER)),
    "an index": (None, lambda: index(entry())),
    "an index of nothing": (NotFound, index),
    "an index of other machines": (NotFound, lambda: index(entry(platform={"os": "plan9", "architecture": "pdp11"}))),
    "an index of what is not there": (NotFound, lambda: index(entry(b"other"))),
    "an index of a digest that is a path": (Corrupt, lambda: index(entry(digest="sha256:../../x"))),
    "an index of a size below zero": (None, lambda: index(entry(size=-1))),
    "an index of another size": (None, lambda: index(entry(size=10))),
    "an index of a manifest said to be an index": (None, lambda: index(entry(mediaType=oci.INDEX))),
    "an index of no entries": (Corrupt, lambda: index(manifests=None)),
    "three indexes deep": (None, lambda: nested(3)),
    "fifty indexes deep": (Corrupt, lambda: nested(50)),
}
