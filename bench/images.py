"""Images in a registry, read with nothing but HTTP, zstd, gzip and tar: what checks a push without Shipway."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from bench.measure import quietly
from bench.model import WrongResult

_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def blob_url(host: str, repository: str, digest: str) -> str:
    """Return where a blob is."""
    return f"http://{host}/v2/{repository}/blobs/{digest}"


def layers(host: str, repository: str, tag: str) -> list[dict[str, Any]]:
    """Return the descriptors of an image's layers, the lowest first."""
    request = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{tag}", headers={"Accept": _ACCEPT})
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer)["layers"]
        return found


def download(host: str, repository: str, layer: dict[str, Any], target: Path) -> None:
    """Write a layer's blob to a file; `WrongResult` if its digest is another."""
    with urllib.request.urlopen(blob_url(host, repository, layer["digest"])) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
    with target.open("rb") as file:
        actual = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    if actual != layer["digest"]:
        raise WrongResult(f"{host} sent {actual} for {layer['digest']}")


def unpack(host: str, repository: str, tag: str, target: Path) -> None:
    """Write an image's tree to a directory, layer over layer. Layers that remove something are not understood."""
    blob = target.with_name(target.name + ".blob")
    for layer in layers(host, repository, tag):
        download(host, repository, layer, blob)
        flag = "--zstd" if layer["mediaType"].endswith("zstd") else "-z"
        quietly(["tar", "-x", flag, "-f", blob, "-C", target])
        blob.unlink()
