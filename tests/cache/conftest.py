"""Fixtures of this room's tests: open stores on every driver, and a registry that wants a password."""

from __future__ import annotations

from support.caches import cache, open_cache
from support.registry import password_registry

__all__ = ["cache", "open_cache", "password_registry"]
