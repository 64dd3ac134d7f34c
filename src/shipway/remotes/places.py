"""A blob that several places may have: each is asked in its turn, until one gives what is right.

What a place has not, or cannot give, is asked of the next; a stream that breaks goes on at the next where it broke.
Whether bytes are right only their reader can tell. So what leaves the block of a stream as `Corrupt` is held against
the place that gave them: it becomes `Elsewhere` while there is another one, and that place is the last to be asked
for the blob from then on. When all were wrong the error says so, and nothing is held against any of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Generic, Self, TypeVar

from shipway.errors import Corrupt, NotFound, ShipwayError, TooLarge, Unauthorized, Unavailable, UnsafeEntry
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.contract import BlobSource, Elsewhere, RangesRefused

NEXT = (NotFound, Unavailable, Unauthorized, Corrupt)
"""What one place may say without it being the last word."""
_OF_ANY = (TooLarge, UnsafeEntry)
"""What is wrong with a blob whoever gave it."""
SourceT = TypeVar("SourceT", bound=BlobSource)


class Place(Generic[SourceT]):
    """A source of blobs that is opened when it is first needed, and what it turned out not to have."""

    def __init__(self, opening: Callable[[], SourceT], *, decides: bool = True, changes: bool = False) -> None:
        """Open it with `opening`; of one that `changes` it may be had later what is not there now."""
        self._opening = opening
        self._changes = changes
        self.decides = decides
        """Whether what it says counts where it has nothing: a mirror may be incomplete, or not there."""
        self._lock = threading.Lock()
        self.opened: SourceT | None = None
        self.lacking: dict[str, NotFound] = {}
        self.wrong: set[str] = set()
        """Digests of blobs of which it gave bytes that were not right."""

    @classmethod
    def of(cls, source: SourceT, *, decides: bool = True, changes: bool = False) -> Self:
        """Return the place that `source` is, open already."""
        place = cls(lambda: source, decides=decides, changes=changes)
        place.opened = source
        return place

    def source(self) -> SourceT:
        """Return the source, opened now if it was not."""
        with self._lock:
            if self.opened is None:
                self.opened = self._opening()
            return self.opened

    def note(self, digest: str, error: NotFound) -> None:
        """Remember that it has not a blob."""
        if not self._changes:
            self.lacking[digest] = error


class Places(Generic[SourceT]):
    """Places in the order in which they are asked. Thread-safe."""

    def __init__(self, places: Sequence[Place[SourceT]], gone: Callable[[Descriptor], NotFound] | None = None) -> None:
        """Read from `places`; `gone` makes the error that is raised for a blob that none of them has."""
        self.all = tuple(places)
        self._gone = gone

    @property
    def traffic(self) -> Traffic:
        """All that all of them have moved so far."""
        return sum((place.opened.traffic for place in self.all if place.opened is not None), Traffic())

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes | memoryview]]:
        """Open a stream over a blob at the first place that gives it; see `BlobSource.read_blob`."""
        end = descriptor.size if length is None else offset + length
        reading = _Reading(self.all, descriptor, offset, end)
        try:
            with reading.stack:
                try:
                    reading.open()
                except NotFound as error:
                    if self._gone is None:
                        raise
                    raise self._gone(descriptor) from error
                yield reading.pieces()
        except Corrupt as error:
            if reading.is_over or isinstance(error, (Elsewhere, *_OF_ANY)):
                raise
            raise reading.doubted(error) from error

    def close(self) -> None:
        """Let go of all connections."""
        for place in self.all:
            if place.opened is not None:
                place.opened.close()


class _Reading(Generic[SourceT]):
    """A stream that is at one place after the other."""

    def __init__(self, places: Sequence[Place[SourceT]], descriptor: Descriptor, position: int, end: int) -> None:
        self.stack = ExitStack()
        self.is_over = False
        """Whether no place is left that could give the rest."""
        self._digest = descriptor.digest
        self._places = places
        self._left = sorted(places, key=lambda place: self._digest in place.wrong)
        self._descriptor = descriptor
        self._position = position
        self._end = end
        self._said: dict[Place[SourceT], ShipwayError] = {}
        self._gave: list[Place[SourceT]] = []
        self._pieces: Iterator[bytes | memoryview] = iter(())

    def open(self) -> None:
        """Open what is still to come at the next place that gives it; raise what the places said if none does."""
        while self._left:
            place = self._left.pop(0)
            self.stack.close()
            try:
                if known := place.lacking.get(self._digest):
                    raise known
                length = self._end - self._position
                opened = place.source().read_blob(self._descriptor, self._position, length)
                self._pieces = self.stack.enter_context(opened)
            except NEXT as error:
                self._said[place] = error
                if isinstance(error, NotFound):
                    place.note(self._digest, error)
            else:
                self._gave.append(place)
                return
        self.is_over = True
        raise self._verdict()

    def _verdict(self) -> ShipwayError:
        """Return what counts: that a place has it and refuses ranges, that one could not be asked, that it is gone."""
        refused = [error for error in self._said.values() if isinstance(error, RangesRefused)]
        counting = [error for place, error in self._said.items() if place.decides or place in self._gave]
        unclear = [error for error in counting if not isinstance(error, NotFound)]
        return (refused or unclear or counting)[0]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield all bytes in order."""
        while self._position < self._end:
            try:
                for piece in self._pieces:
                    self._position += len(piece)
                    yield piece
            except NEXT as error:
                self._said[self._gave[-1]] = error
                self.open()
            else:
                return

    def doubted(self, error: Corrupt) -> Corrupt:
        """Return what is to be raised for bytes that were not right."""
        first = next((place for place in self._gave if not self._is_wrong(place)), None)
        if first is not None:
            first.wrong.add(self._digest)
        # Either way the next reading asks a place that this one did not, or holds something against one more.
        again = self._left if first is None else [*self._left, *self._gave]
        if any(not self._is_wrong(place) and self._digest not in place.lacking for place in again):
            return Elsewhere(error.what, where=error.where, todo=error.todo)
        said = [line for place in self._places if (line := self._line(place))]
        for place in self._places:
            place.wrong.discard(self._digest)
        what = f"{error.what}; {', '.join(said)}" if len(said) > 1 else error.what
        return type(error)(what, where=error.where, todo=error.todo)

    def _is_wrong(self, place: Place[SourceT]) -> bool:
        return self._digest in place.wrong

    def _line(self, place: Place[SourceT]) -> str:
        """Return what became of asking a place, for people; nothing of a mirror that has it not."""
        name = place.opened.name if place.opened is not None else ""
        said = self._said.get(place) or place.lacking.get(self._digest)
        if self._is_wrong(place):
            return f"so it came from {name}"
        if said is None or (isinstance(said, NotFound) and not place.decides):
            return ""
        if isinstance(said, NotFound):
            return f"it is not at {name}"
        return f"{name or said.where}: {said.what}"
