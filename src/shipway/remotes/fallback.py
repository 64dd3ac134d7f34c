"""One repository with others to read from as well: mirrors before it, further remotes after it.

Blobs are named by their digests, so it does not matter who has them (`places`). Tags are asked of mirrors and of the
repository itself alone, since elsewhere they mean something else. All that is written goes to the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from shipway.errors import Missing, NotFound, ShipwayError
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.contract import Remote
from shipway.remotes.places import NEXT, Place, Places
from shipway.remotes.wrapped import WrappedRemote


class FallbackRemote(WrappedRemote):
    """A repository, and where else its blobs may be. Thread-safe.

    `missing` is called with a blob that none of them has, before `Missing` is raised.
    """

    def __init__(
        self, own: Remote, *, mirrors: Sequence[Remote] = (), others: Sequence[Callable[[], Remote]] = ()
    ) -> None:
        """Take over the repository `own` and its mirrors; `others` open further places when they are needed."""
        super().__init__(own)
        self._own = Place.of(own)
        self._mirrors = [Place.of(mirror, decides=False) for mirror in mirrors]
        self._others = [Place(opening) for opening in others]
        self._places = Places([*self._mirrors, self._own, *self._others], self._gone)
        self.missing: Callable[[Descriptor], None] = lambda _: None

    @property
    def traffic(self) -> Traffic:
        """All that all of them have moved so far."""
        return self._places.traffic

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return a manifest of the first place that has it; by a digest it may be any of them."""
        failure: ShipwayError | None = None
        for place in self._places.all if ":" in target else (*self._mirrors, self._own):
            try:
                return place.source().manifest(target)
            except NEXT as error:
                if place is self._own:
                    failure = error
        assert failure is not None  # the repository itself was asked
        raise failure

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether any of them has a blob. If none is known to, raises what one that could not be asked raises."""
        failure: ShipwayError | None = None
        for place in self._places.all:
            try:
                if place.source().has_blob(descriptor):
                    return True
            except NotFound:
                continue
            except NEXT as error:
                if place.decides:
                    failure = failure or error
        if failure is not None:
            raise failure
        return False

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """Open a stream over a blob at the first place that gives it; see `BlobSource.read_blob`."""
        return self._places.read_blob(descriptor, offset, length)

    def _gone(self, descriptor: Descriptor) -> Missing:
        self.missing(descriptor)
        also = ", ".join(place.source().name for place in self._places.all if place is not self._own)
        what = f"the blob {descriptor.digest} of {descriptor.size} bytes is gone"
        return Missing(f"{what}, and not at {also} either" if also else what, where=self.name, todo="push it again")

    def close(self) -> None:
        """Let go of all connections."""
        self._places.close()
