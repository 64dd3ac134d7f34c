"""One repository with others to read from as well: mirrors before it, further remotes after it.

What a place has not, or cannot give, is asked of the next; a stream that breaks goes on at the next where it broke.
Blobs are named by their digests, so it does not matter who has them. Tags are asked of mirrors and of the
repository itself alone, since elsewhere they mean something else. All that is written goes to the repository.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from shipway.errors import Corrupt, Missing, NotFound, ShipwayError, Unauthorized, Unavailable
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.contract import RangesRefused, Remote
from shipway.remotes.wrapped import WrappedRemote

_NEXT = (NotFound, Unavailable, Unauthorized, Corrupt)
"""What one place may say without it being the last word."""


class _Place:
    """A remote that is opened when it is first needed, and what it turned out not to have."""

    def __init__(self, opening: Callable[[], Remote], *, decides: bool = True) -> None:
        self._opening = opening
        self.decides = decides
        """Whether what it says counts where it has nothing: a mirror may be incomplete, or not there."""
        self._lock = threading.Lock()
        self.opened: Remote | None = None
        self.lacking: dict[str, NotFound] = {}

    def remote(self) -> Remote:
        with self._lock:
            if self.opened is None:
                self.opened = self._opening()
            return self.opened


class FallbackRemote(WrappedRemote):
    """A repository, and where else its blobs may be. Thread-safe.

    `missing` is called with a blob that none of them has, before `Missing` is raised.
    """

    def __init__(
        self, own: Remote, *, mirrors: Sequence[Remote] = (), others: Sequence[Callable[[], Remote]] = ()
    ) -> None:
        """Take over the repository `own` and its mirrors; `others` open further places when they are needed."""
        super().__init__(own)
        self._own = _Place(partial(_same, own))
        self._mirrors = [_Place(partial(_same, mirror), decides=False) for mirror in mirrors]
        self._others = [_Place(opening) for opening in others]
        self._places = [*self._mirrors, self._own, *self._others]
        for place in (*self._mirrors, self._own):
            place.remote()
        self.missing: Callable[[Descriptor], None] = lambda _: None

    @property
    def traffic(self) -> Traffic:
        """All that all of them have moved so far."""
        return sum((place.opened.traffic for place in self._places if place.opened is not None), Traffic())

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return a manifest of the first place that has it; by a digest it may be any of them."""
        failure: ShipwayError | None = None
        for place in self._places if ":" in target else (*self._mirrors, self._own):
            try:
                return place.remote().manifest(target)
            except _NEXT as error:
                if place is self._own:
                    failure = error
        assert failure is not None  # the repository itself was asked
        raise failure

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether any of them has a blob. If none is known to, raises what one that could not be asked raises."""
        failure: ShipwayError | None = None
        for place in self._places:
            try:
                if place.remote().has_blob(descriptor):
                    return True
            except NotFound:
                continue
            except _NEXT as error:
                if place.decides:
                    failure = failure or error
        if failure is not None:
            raise failure
        return False

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes | memoryview]]:
        """Open a stream over a blob at the first place that gives it; see `BlobSource.read_blob`."""
        end = descriptor.size if length is None else offset + length
        with ExitStack() as stack:
            reading = _Reading(self._places, descriptor, offset, end, stack)
            try:
                reading.open()
            except NotFound as error:
                raise self._gone(descriptor) from error
            yield reading.pieces()

    def _gone(self, descriptor: Descriptor) -> Missing:
        self.missing(descriptor)
        also = ", ".join(place.remote().name for place in self._places if place is not self._own)
        what = f"the blob {descriptor.digest} of {descriptor.size} bytes is gone"
        return Missing(f"{what}, and not at {also} either" if also else what, where=self.name, todo="push it again")

    def close(self) -> None:
        """Let go of all connections."""
        for place in self._places:
            if place.opened is not None:
                place.opened.close()


def _same(remote: Remote) -> Remote:
    return remote


class _Reading:
    """A stream that is at one place after the other."""

    def __init__(
        self,
        places: Sequence[_Place],
        descriptor: Descriptor,
        position: int,
        end: int,
        stack: ExitStack,
    ) -> None:
        self._left = list(places)
        self._descriptor = descriptor
        self._position = position
        self._end = end
        self._stack = stack
        self._failures: list[ShipwayError] = []
        self._pieces: Iterator[bytes | memoryview] = iter(())

    def open(self) -> None:
        """Open what is still to come at the next place that gives it; raise what the places said if none does."""
        while self._left:
            place = self._left.pop(0)
            self._stack.close()
            try:
                if known := place.lacking.get(self._descriptor.digest):
                    raise known
                length = self._end - self._position
                opened = place.remote().read_blob(self._descriptor, self._position, length)
                self._pieces = self._stack.enter_context(opened)
            except _NEXT as error:
                self._note(error, place)
            else:
                return
        raise self._verdict()

    def _note(self, error: ShipwayError, place: _Place) -> None:
        if isinstance(error, NotFound):
            place.lacking[self._descriptor.digest] = error
        if place.decides or isinstance(error, RangesRefused):
            self._failures.append(error)

    def _verdict(self) -> ShipwayError:
        """Return what counts: that a place has it and refuses ranges, that one could not be asked, that it is gone."""
        refused = [error for error in self._failures if isinstance(error, RangesRefused)]
        unclear = [error for error in self._failures if not isinstance(error, NotFound)]
        return (refused or unclear or self._failures)[0]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield all bytes in order."""
        while self._position < self._end:
            try:
                for piece in self._pieces:
                    self._position += len(piece)
                    yield piece
            except _NEXT as error:
                self._failures.append(error)
                self.open()
            else:
                return
