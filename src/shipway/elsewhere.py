"""Images at other places: looked up there by a reference, or by a key, and given as remote refs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial

from shipway.errors import Missing, NotFound, RepositoryNotFound, Unavailable
from shipway.local.store import Store
from shipway.oci import Platform, key_tag
from shipway.references import Reference
from shipway.remote_handles import RemoteHandle
from shipway.remotes import Remote, open_remote
from shipway.remotes.fallback import FallbackRemote
from shipway.remotes.spooled import SpooledRanges
from shipway.transfer.images import find_image
from shipway.transfer.sources import RemoteImage


class Elsewhere:
    """Where refs are that a store has not: any image by its reference, and keys at the configured remotes."""

    def __init__(self, store: Store, remotes: Sequence[str], platform: str | None) -> None:
        """Look up for `store`; see `Cache.open` for `remotes` and `platform`."""
        self._store = store
        self.remotes = [Reference.parse(remote) for remote in remotes]
        self._platform = Platform.parse(platform) if platform is not None else None

    def image(self, reference: str, platform: str | None = None) -> RemoteHandle:
        """Return the image at `reference`; see `Cache.remote`."""
        place = Reference.parse(reference)
        wanted = Platform.parse(platform) if platform is not None else self._platform
        try:
            return self._find(place, wanted)
        except RepositoryNotFound:
            raise
        except NotFound:
            # Some registries say of anything in a missing repository just that it is not there.
            with closing(self._open(place)) as remote:
                next(remote.tags(), None)
            raise

    def image_of_key(self, key: str | bytes) -> RemoteHandle | None:
        """Return the image of the first remote that knows `key`, or None; see `Cache.lookup`."""
        failure: Exception | None = None
        for remote in self.remotes:
            try:
                return self.whole_image(remote.at(tag=key_tag(key)))
            except NotFound:
                continue
            except Unavailable as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return None

    def whole_image(self, reference: Reference) -> RemoteHandle:
        """Return the image at `reference`; `Missing` if blobs of it were gone before and still are."""
        return self._find(reference, self._platform, whole=True)

    def _find(self, reference: Reference, platform: Platform | None, *, whole: bool = False) -> RemoteHandle:
        others = [partial(self._open, one) for one in self.remotes if one.place != reference.place]
        places = FallbackRemote(self._open(reference), others=others)
        remote = SpooledRanges(places, self._store.root / "ingest")
        try:
            image = find_image(remote, reference.target, platform)
            digest = image.descriptor.digest
            places.missing = partial(self._store.absences.note, places.name, digest)
            if whole:
                self._check_whole(places, digest)
            source = RemoteImage(remote, image)
            return RemoteHandle(
                self._store, str(reference.at(digest=digest)), source.layers(), image.manifest.annotations
            )
        except BaseException:
            remote.close()
            raise

    def _open(self, reference: Reference) -> Remote:
        return open_remote(reference, self._store.registries)

    def _check_whole(self, places: FallbackRemote, image: str) -> None:
        """Raise `Missing` if blobs of an image were gone before and still are; forget it if they are back."""
        gone = self._store.absences.of(places.name, image)
        for blob in gone:
            if not places.holds(blob):
                raise Missing(f"the blob {blob.digest} of {blob.size} bytes is gone", where=f"{places.name}@{image}")
        if gone:
            self._store.absences.forget(places.name, image)
