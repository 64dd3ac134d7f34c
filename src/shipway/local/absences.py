"""Images elsewhere whose blobs were gone when they were wanted: to a lookup they are not there, until the blobs are."""

from __future__ import annotations

import time
from collections.abc import Iterable

from shipway.local.database import Database
from shipway.oci import LAYER_TAR, Descriptor

_KEPT_SECONDS = 30 * 24 * 3600


class Absences:
    """What one store knows to be gone; others find out by themselves."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def note(self, place: str, image: str, blob: Descriptor) -> None:
        """Remember that a blob of the image with the digest `image` is gone from `place`."""
        now = time.time_ns()
        with self._database.write() as db:
            db.execute("DELETE FROM absences WHERE noticed < ?", (now - _KEPT_SECONDS * 10**9,))
            row = (place, image, blob.digest, blob.size, now)
            db.execute("INSERT OR REPLACE INTO absences VALUES (?, ?, ?, ?, ?)", row)

    def of(self, place: str, image: str) -> list[Descriptor]:
        """Return the blobs of an image that were gone."""
        rows = self._database.read(
            "SELECT blob, size FROM absences WHERE place = ? AND image = ? ORDER BY blob", place, image
        )
        return [Descriptor(media_type=LAYER_TAR, digest=digest, size=size) for digest, size in rows]

    def at(self, place: str) -> set[str]:
        """Return the digests of blobs that were gone from a place, whatever image names them."""
        return {digest for (digest,) in self._database.read("SELECT blob FROM absences WHERE place = ?", place)}

    def back(self, place: str, blobs: Iterable[str]) -> None:
        """Forget what was noted of blobs: they are at the place again."""
        with self._database.write() as db:
            db.executemany("DELETE FROM absences WHERE place = ? AND blob = ?", [(place, blob) for blob in blobs])

    def forget(self, place: str, image: str) -> None:
        """Forget what was noted of an image: it is whole again."""
        with self._database.write() as db:
            db.execute("DELETE FROM absences WHERE place = ? AND image = ?", (place, image))
