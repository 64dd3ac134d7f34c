"""Fetching a whole blob: on from where an earlier attempt broke off, and over several connections if it is large.

Over one connection the bytes are appended to the blob's file as they pass. Several write what comes at its place in
the file at once (`shipway.local.parts`), and whoever reads the blob takes it from there. Either way its bytes
come out in order, so that they can be hashed, decompressed and unpacked in the same pass, and what came of
a blob need not come again, whatever became of whoever fetched it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import chain, islice

from shipway.errors import Unavailable
from shipway.local.blobs import Ingest
from shipway.local.parts import PART, Parts
from shipway.local.store import PIECE, Store
from shipway.oci import Descriptor
from shipway.remotes.contract import BlobSource, judged
from shipway.transfer.ahead import Job, run_ahead
from shipway.trees.entry import Buffer

LARGE = 4 * PART
"""Blobs of which fewer bytes are to come have one connection."""
STEP = 256 << 10
"""Bytes of a part after which it is noted that they came, and its reader hears of them."""


@contextmanager
def open_ingest(store: Store, descriptor: Descriptor) -> Iterator[Ingest]:
    """Yield the file that a blob is fetched into, which may have some of it; it stays if it was not kept.

    While somebody else fetches the same blob it is a new file, which does not.
    """
    with store.kept.partial(descriptor.digest) or store.blobs.ingest() as ingest:
        ingest.came = Parts(ingest, descriptor.size).total
        yield ingest


@contextmanager
def fetch(
    remote: BlobSource, descriptor: Descriptor, ingest: Ingest, connections: int, came: Callable[[int], None]
) -> Iterator[Iterator[Buffer]]:
    """Open a stream over a blob: what `ingest` has of it already, and what comes, which it has then too.

    `came` hears of bytes that come. A piece is valid until the next. Nothing is checked but the length; when the
    last piece is there, so is the whole blob.
    """
    parts = Parts(ingest, descriptor.size)
    with ExitStack() as stack:
        stack.callback(parts.leave)
        pieces = None
        if parts.scattered or (connections > 1 and descriptor.size - parts.total >= LARGE):
            with suppress(Unavailable):  # perhaps it does not answer ranges: one stream will tell
                pieces = _over_several(remote, descriptor, ingest, parts, connections, came, stack)
        yield pieces or _over_one(remote, descriptor, ingest, parts, came, stack)


def _over_one(  # noqa: PLR0917  each is a thing it needs
    remote: BlobSource,
    descriptor: Descriptor,
    ingest: Ingest,
    parts: Parts,
    came: Callable[[int], None],
    stack: ExitStack,
) -> Iterator[Buffer]:
    beginning = parts.beginning
    pieces = stack.enter_context(remote.read_blob(descriptor, beginning, descriptor.size - beginning))
    parts.gather()
    return chain(_read(ingest, 0, beginning), _appended(ingest, pieces, came))


def _over_several(  # noqa: PLR0917  each is a thing it needs
    remote: BlobSource,
    descriptor: Descriptor,
    ingest: Ingest,
    parts: Parts,
    connections: int,
    came: Callable[[int], None],
    stack: ExitStack,
) -> Iterator[Buffer]:
    parts.scatter()
    before = [parts.came(number) for number in range(parts.touched)]
    # One by one, as they are wanted: a size is but what a manifest claims.
    jobs: Iterator[Job[int]] = (
        partial(_fetch_part, remote, descriptor, ingest, parts, number)
        for number in parts.numbers()
        if parts.came(number) < parts.length(number)
    )
    steps = stack.enter_context(closing(run_ahead(jobs, int, workers=connections, budget=parts.part)))
    first = list(islice(steps, 1))
    stack.enter_context(judged(remote, descriptor))
    return _in_order(ingest, parts, before, chain(first, steps), came)


def _appended(ingest: Ingest, pieces: Iterator[Buffer], came: Callable[[int], None]) -> Iterator[Buffer]:
    for piece in pieces:
        ingest.append(piece)
        came(len(piece))
        yield piece


def _fetch_part(
    remote: BlobSource, descriptor: Descriptor, ingest: Ingest, parts: Parts, number: int
) -> Generator[int, None, None]:
    """Write what is lacking of a part, and yield how many bytes came, again and again."""
    start, noted = parts.start(number), parts.came(number)
    done = noted
    try:
        with remote.read_blob(descriptor, start + done, parts.length(number) - done) as pieces:
            for piece in pieces:
                ingest.write_at(piece, start + done)
                done += len(piece)
                if done - noted >= STEP:
                    parts.note(number, done)
                    step, noted = done - noted, done
                    yield step
    finally:
        if done > noted:
            parts.note(number, done)
    if done > noted:
        yield done - noted


def _in_order(
    ingest: Ingest, parts: Parts, before: Sequence[int], steps: Iterator[int], came: Callable[[int], None]
) -> Iterator[Buffer]:
    """Yield a blob's bytes: of each part what was there `before`, then what a job for it says by `steps` that came."""
    at = 0
    for number in parts.numbers():
        end = parts.start(number) + (before[number] if number < len(before) else 0)
        last = parts.start(number) + parts.length(number)
        while True:
            if end == parts.size:
                parts.gather()  # all is there
            yield from _read(ingest, at, end)
            at = end
            if at == last:
                break
            step = next(steps)
            came(step)
            end += step


def _read(ingest: Ingest, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = os.pread(ingest.file.fileno(), min(PIECE, end - start), start)
        if not piece:
            raise Unavailable("what came of a blob is gone", where=ingest.file.name)
        start += len(piece)
        yield piece
