"""Fetching a whole blob: on from where an earlier attempt broke off, and over several connections if it is large.

However many connections there are, the bytes come in order, so that they can be hashed, decompressed and unpacked
in the same pass, and a blob that did not come to its end is always a beginning that can be gone on with.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain

from shipway.errors import Unavailable
from shipway.local.blobs import Ingest
from shipway.local.partial import Partial, beginning
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource, judged
from shipway.transfer.ahead import Job, run_ahead
from shipway.trees.entry import Buffer

PART = 16 << 20
"""Bytes that one connection asks for at a time when there are several."""
LARGE = 4 * PART
"""Blobs of which fewer bytes are to come have one connection."""


@contextmanager
def open_ingest(store: Store, descriptor: Descriptor) -> Iterator[Ingest]:
    """Yield the file that a blob is fetched into, which may have a beginning of it; it stays if it was not kept.

    While somebody else fetches the same blob it is a new file, which does not.
    """
    with store.kept.partial(descriptor.digest) or store.blobs.ingest() as ingest:
        if isinstance(ingest, Partial) and ingest.came > descriptor.size:
            ingest.begin_again()
        yield ingest


@contextmanager
def fetch(remote: BlobSource, descriptor: Descriptor, start: int, connections: int) -> Iterator[Iterator[Buffer]]:
    """Open a stream over a blob from `start` on; nothing is checked but its length."""
    left = descriptor.size - start
    if connections > 1 and left >= LARGE:
        # One by one, as they are wanted: a size is but what a manifest claims.
        jobs: Iterator[Job[bytes]] = (
            partial(_part, remote, descriptor, at, min(PART, descriptor.size - at))
            for at in range(start, descriptor.size, PART)
        )
        with closing(run_ahead(jobs, len, workers=connections, budget=PART)) as pieces:
            try:
                first = next(pieces)
            except Unavailable:  # perhaps it does not answer ranges: one stream will tell
                pass
            else:
                with judged(remote, descriptor):
                    yield chain((first,), pieces)
                return
    with remote.read_blob(descriptor, start, left) as stream:
        yield stream


def _part(remote: BlobSource, descriptor: Descriptor, start: int, size: int) -> Generator[bytes, None, None]:
    with remote.read_blob(descriptor, start, size) as pieces:
        for piece in pieces:
            yield bytes(piece)


def arriving(ingest: Ingest, pieces: Iterator[Buffer]) -> Iterator[Buffer]:
    """Yield a blob's bytes: what `ingest` has of it, then `pieces`, which are appended to it."""
    yield from beginning(ingest)
    for piece in pieces:
        ingest.append(piece)
        yield piece
