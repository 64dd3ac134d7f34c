"""Fixtures of this room's tests: open stores on every driver."""

from __future__ import annotations

from support.caches import cache, open_cache

__all__ = ["cache", "open_cache"]
