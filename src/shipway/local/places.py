"""Where blobs were seen: what a push need not send, or need not even make.

A blob that is in another repository of a registry can be mounted from there. A layer whose blob is not in
this store (it was put together, or its blob was pruned) need not be packed if the target has the one that it
came from. What is remembered is only where to ask.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from shipway.local.database import Database
from shipway.oci import Descriptor

MOST = 20_000
"""Places that are remembered, the newest ones."""


class Places:
    """The places that one store knows. They are called by the names of remotes."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def saw(self, place: str, blobs: Iterable[tuple[Descriptor, str | None]]) -> None:
        """Remember that blobs, each with its layer's DiffID if it holds one, are at a place."""
        now = time.time_ns()
        rows = [
            (
                blob.digest,
                place,
                diff_id,
                blob.media_type,
                blob.size,
                msgspec.json.encode(blob.annotations).decode(),
                now,
            )
            for blob, diff_id in blobs
        ]
        with self._database.write() as db:
            db.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute(
                "DELETE FROM places WHERE seen < (SELECT seen FROM places ORDER BY seen DESC LIMIT 1 OFFSET ?)", (MOST,)
            )

    def of_blob(self, digest: str) -> list[str]:
        """Return where a blob was seen, the last place first."""
        query = "SELECT place FROM places WHERE digest = ? ORDER BY seen DESC, place"
        return [place for (place,) in self._database.read(query, digest)]

    def of_layer(self, diff_id: str) -> list[tuple[Descriptor, str]]:
        """Return the blobs that hold a layer with where they were seen, the last one first."""
        rows = self._database.read(
            "SELECT media_type, digest, size, annotations, place FROM places WHERE diff_id = ?"
            " ORDER BY seen DESC, digest, place",
            diff_id,
        )
        return [
            (
                Descriptor(
                    media_type=media_type,
                    digest=digest,
                    size=size,
                    annotations=msgspec.json.decode(annotations, type=dict[str, str]),
                ),
                place,
            )
            for media_type, digest, size, annotations, place in rows
        ]
