"""How much a prune is to keep, and for how long: its options, and the arithmetic of sizes."""

from __future__ import annotations

import msgspec


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a prune may remove. Sizes in bytes, durations in seconds; None sets no limit."""

    filters: tuple[str, ...] = ()
    everything: bool = True
    """Records of the types `internal` and `frontend` too."""
    keep_duration: float | None = None
    reserved_space: int | None = None
    max_used_space: int | None = None
    min_free_space: int | None = None

    @property
    def has_sizes(self) -> bool:
        """Whether any of the three sizes is set."""
        return (self.reserved_space, self.max_used_space, self.min_free_space) != (None, None, None)


def bytes_to_keep(
    total: int,
    free: int,
    *,
    reserved: int | None = None,
    max_used: int | None = None,
    min_free: int | None = None,
) -> int:
    """Return how many bytes a cache of `total` may keep on a disk that has `free` left.

    Nothing without options. `max_used` is an upper limit. For `min_free` it gives up what the disk lacks
    of that. Of both the lower counts, but it never has to go below `reserved`.
    """
    if max_used is None and min_free is None:
        return reserved or 0
    limits = [] if max_used is None else [max_used]
    if min_free is not None:
        limits.append(total - max(0, min_free - free))
    return max(min(limits), reserved or 0)
