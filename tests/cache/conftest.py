"""Fixtures of this room's tests: open stores on every driver, and registries."""

from __future__ import annotations

from support.caches import cache, open_cache
from support.registry import password_registry, registry, repository, token_registry

__all__ = ["cache", "open_cache", "password_registry", "registry", "repository", "token_registry"]
