"""Threads for what must not hold up the event loop: disks, hashing, packing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Work:
    """Two pools, so that what takes long (packing a tree for its manifest) never keeps what is quick waiting."""

    def __init__(self) -> None:
        self._quick = ThreadPoolExecutor(16, thread_name_prefix="shipway-serve")
        self._long = ThreadPoolExecutor(4, thread_name_prefix="shipway-serve-long")

    async def quick(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, from a thread: a look-up, a piece of a blob."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, call)

    async def long(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, from a thread of those that may take their time."""
        return await asyncio.get_running_loop().run_in_executor(self._long, call)

    def close(self) -> None:
        """Wait for what has begun, and drop what has not."""
        self._long.shutdown(cancel_futures=True)
        self._quick.shutdown(cancel_futures=True)
