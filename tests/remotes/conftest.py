"""Fixtures of this room's tests: real registries."""

from __future__ import annotations

from support.registry import password_registry, reference, registry, repository, token_registry

__all__ = ["password_registry", "reference", "registry", "repository", "token_registry"]
