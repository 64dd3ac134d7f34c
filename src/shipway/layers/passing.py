"""Looking at an archive while it passes by on its way to a sink: what its entries say, and what their contents hash to.

Hashing is for another thread than the one that reads and writes. So what passes by is noted, and worked off later; only
small contents are hashed at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Protocol

from shipway.layers.digests import ContentDigests
from shipway.layers.tar import TarReader
from shipway.trees.entry import Buffer, Content, Entry, OpenFile

Extent = tuple[int, int, int]
"""Where in the archive some bytes of a file are: their place in the file, that in the archive, how many."""
Noted = tuple[Entry | None, Buffer | int | str | None, Sequence[Extent]]
"""An entry with its content or the digest of that, or with None if parts follow; a part, without an entry; without
either, their end."""
_SMALL = 64 << 10
"""Contents of fewer bytes are hashed where they pass by: handing over Python's lock takes longer."""


class Watcher(Protocol):
    """Who is told of the entries of an archive, each once its content has passed."""

    extents: bool
    """Whether to say where contents are."""
    room: int
    """Bytes of holes that are hashed as zeros; see `ContentDigests`."""

    @property
    def listening(self) -> bool:
        """Whether there is any use in telling more. Once it is false it stays so."""

    def add(self, entry: Entry, digest: str, extents: Sequence[Extent] = ()) -> None:
        """Take the next entry, the digest of its content, empty if that is, and where it is if that is wanted."""


class Passing:
    """Entries that pass by.

    What was noted is hashed by `work`, for which `noted` says what there is to do: in another thread, and before
    the buffers that it is in are filled again.
    """

    def __init__(self, watcher: Watcher) -> None:
        """Tell `watcher` of each entry."""
        self._watcher = watcher
        self._digests = ContentDigests(watcher.room)
        """Of contents that come in parts."""
        self._noted: list[Noted] = []
        self._entry: Entry | None = None
        self._extents: Sequence[Extent] = ()

    def entries(self, archive: TarReader) -> Iterator[tuple[Entry, Content]]:
        """Yield the entries of `archive`, with their contents."""
        extents: Sequence[Extent] = ()
        watcher, wanted = self._watcher, self._watcher.extents
        for entry, content in archive:
            assert not isinstance(content, OpenFile)
            if wanted:
                extents = archive.stored(entry.size) if entry.size else ()
            if isinstance(content, (bytes, bytearray, memoryview)):
                if not entry.size:
                    self._noted.append((entry, "", extents))
                elif len(content) < _SMALL and watcher.listening:
                    self._noted.append((entry, "sha256:" + sha256(content).hexdigest(), extents))
                else:
                    self._noted.append((entry, content, extents))
                yield entry, content
                continue
            self._noted.append((entry, None, extents))
            pieces = self._parts(content)
            yield entry, pieces
            for _ in pieces:  # whatever the sink left
                pass

    def _parts(self, content: Iterator[Buffer | int]) -> Iterator[Buffer | int]:
        for piece in content:
            self._noted.append((None, piece, ()))
            yield piece
        self._noted.append((None, None, ()))

    def noted(self) -> list[Noted]:
        """Return what has been noted since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def work(self, noted: list[Noted]) -> None:
        """Hash what was noted, and tell of it; the parts in their order, one call at a time."""
        if not self._watcher.listening:
            return
        tell, digests = self._watcher.add, self._digests
        for entry, piece, extents in noted:
            if entry is None:
                if piece is None:
                    assert self._entry is not None
                    tell(self._entry, digests.end(), self._extents)
                else:
                    assert not isinstance(piece, str)
                    digests.update(piece)
            elif isinstance(piece, str):
                tell(entry, piece, extents)
            elif piece is None:
                self._entry, self._extents = entry, extents
                digests.begin(entry.size)
            else:
                assert not isinstance(piece, int)
                tell(entry, "sha256:" + sha256(piece).hexdigest(), extents)
