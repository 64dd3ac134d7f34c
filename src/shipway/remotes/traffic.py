"""Counting what a remote moves, from many threads at once."""

from __future__ import annotations

import threading

from shipway.refs import Traffic


class TrafficCounter:
    """Adds up requests and bytes of bodies; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Traffic()

    def add(self, *, requests: int = 0, received: int = 0, sent: int = 0) -> None:
        """Count further requests, and bytes of bodies in either direction."""
        with self._lock:
            self._total += Traffic(requests, received, sent)

    @property
    def total(self) -> Traffic:
        """All that was counted so far."""
        return self._total
