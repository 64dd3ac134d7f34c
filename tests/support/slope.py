"""How much more memory a job takes the more there is to do."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def traced_peak(job: Callable[[], object]) -> int:
    """Return the most bytes that Python's own objects had at once while `job` ran, beyond those of before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        job()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def slope(job: Callable[[int], object], few: int, many: int) -> float:
    """Return how many bytes more `job(number)` takes for one more, from `few` to `many` of them."""
    job(few)  # what is made once and stays is made now
    return (traced_peak(lambda: job(many)) - traced_peak(lambda: job(few))) / (many - few)
