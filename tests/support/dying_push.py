"""Pushes a ref of a store, in chunks of 1 MiB, and kills its own process in the middle.

`python -m support.dying_push ROOT ID REFERENCE chunks|bytes COUNT`: when so many chunks were taken, or bytes sent.
"""

from __future__ import annotations

import os
import signal
import sys

from shipway import Cache, Progress
from shipway.local.uploads import Uploads
from shipway.progress import ProgressCallback
from shipway.references import Reference, RegistryReference
from shipway.remotes.registry.client import RegistryRemote
from shipway.transfer.push import push

CHUNK = 1 << 20


class DyingUploads(Uploads):
    """Uploads of a store, whose process dies when so many chunks were noted."""

    chunks = 0

    def note(self, place: str, digest: str, location: str) -> None:
        """Note a chunk, unless it is the beginning."""
        super().note(place, digest, location)
        if self.chunks == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.chunks -= 1


def push_in_chunks(
    cache: Cache, record: str, reference: str, uploads: Uploads | None = None, progress: ProgressCallback | None = None
) -> int:
    """Push a ref, and return how many bytes were sent."""
    place = Reference.parse(reference)
    assert isinstance(place, RegistryReference)
    store = cache._store
    remote = RegistryRemote(place, chunk=CHUNK, unfinished=uploads or store.uploads)
    try:
        done = push(store, store.finalize(store.records.get(record)), remote, tag=place.target, progress=progress)
    finally:
        remote.close()
    return done.traffic.sent


def _main(root: str, record: str, reference: str, what: str, limit: str) -> None:
    count = int(limit)

    def heard(progress: Progress) -> None:
        if what == "bytes" and progress.task == "push" and progress.done >= count:
            os.kill(os.getpid(), signal.SIGKILL)

    with Cache.open(root) as cache:
        uploads = DyingUploads(cache._store.database, cache._store.leases)
        uploads.chunks = count if what == "chunks" else -1
        push_in_chunks(cache, record, reference, uploads, heard)


if __name__ == "__main__":
    _main(*sys.argv[1:])
