"""Fixtures of this room's tests: real registries, buckets, directories and files."""

from __future__ import annotations

from support.places import (
    az_place,
    file_place,
    gs_place,
    layout_place,
    place,
    registry_place,
    s3,
    s3_place,
    worker_place,
    wrapped_place,
)
from support.registry import password_registry, reference, registry, repository, token_registry

__all__ = [
    "az_place",
    "file_place",
    "gs_place",
    "layout_place",
    "password_registry",
    "place",
    "reference",
    "registry",
    "registry_place",
    "repository",
    "s3",
    "s3_place",
    "token_registry",
    "worker_place",
    "wrapped_place",
]
