"""Digests of contents that pass by one after the other, in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from shipway.trees.entry import Buffer

FILLED = 4 << 30
"""Bytes of holes of a layer that are hashed as zeros. It may claim any; beyond, files with holes are told apart by
where these are, and there is no index."""
_HOLES = "holes:"
_SHA256 = "sha256:"
_ZEROS = bytes(1 << 20)


class ContentDigests:
    """Works out what tells the contents of one layer apart: their sha256, but for files with too many holes."""

    def __init__(self, room: int = FILLED) -> None:
        """Hash at most `room` bytes of holes as zeros."""
        self._room = room
        self.begin(0)

    def begin(self, size: int) -> None:
        """Turn to the next content, of `size` bytes."""
        self._fill = size <= self._room
        self._hash, self._layout = hashlib.sha256(), hashlib.sha256()
        self._position = self._holes = 0

    def update(self, piece: Buffer | int) -> None:
        """Take the next piece of it, a hole as its length."""
        if not isinstance(piece, int):
            self._hash.update(piece)
            self._position += len(piece)
            return
        if self._fill:
            for data in zeros(piece):
                self._hash.update(data)
        self._layout.update(b"%d+%d " % (self._position, piece))
        self._holes += piece
        self._position += piece

    def end(self) -> str:
        """Return the digest of what was taken; see `is_sha256`."""
        if self._holes and not self._fill:
            self._layout.update(self._hash.digest())
            return _HOLES + self._layout.hexdigest()
        self._room -= self._holes
        return _SHA256 + self._hash.hexdigest()


def is_sha256(digest: str) -> bool:
    """Whether a digest is the sha256 of a content, and not that of what it has beside its holes."""
    return digest.startswith(_SHA256)


def zeros(count: int) -> Iterator[bytes]:
    """Yield `count` zero bytes in pieces."""
    for done in range(0, count, len(_ZEROS)):
        yield _ZEROS[: count - done]
