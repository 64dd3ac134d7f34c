"""What every remote checks alike: targets, ranges, and what a manifest refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, Truncated, Unavailable
from shipway.oci import Descriptor, Document
from shipway.stopping import Workers

PIECE = 1 << 20
"""Most bytes in one piece of a stream."""
_PARALLEL = 8


def checked_target(target: str) -> str:
    """Return a tag or digest as it is; `Invalid` if it is neither."""
    if ":" in target:
        return oci.check_digest(target)
    if not oci.is_tag(target):
        raise Invalid(f"not a tag: {target[:150]!r}")
    return target


def end_of_range(size: int, offset: int, length: int | None, where: str) -> int:
    """Return where `length` bytes from `offset` on end in a blob of `size`; `Invalid` if that is outside of it."""
    end = size if length is None else offset + length
    if not 0 <= offset <= end <= size:
        raise Invalid(f"bytes {offset} to {end} are not within the blob's {size}", where=where)
    return end


@contextmanager
def reading_range(
    descriptor: Descriptor,
    offset: int,
    length: int | None,
    where: str,
    opening: Callable[[int, int], AbstractContextManager[Iterator[bytes]]],
) -> Iterator[Iterator[memoryview]]:
    """Do what `BlobSource.read_blob` does with what `opening(start, end)` gives, which is not called for no bytes."""
    end = end_of_range(descriptor.size, offset, length, where)
    if offset == end:
        yield iter(())
        return
    with opening(offset, end) as pieces:
        yield _whole(pieces, end - offset, where)


def describe_manifest(data: bytes, target: str, where: str) -> Descriptor:
    """Return the descriptor of a manifest that was asked for by `target`, a tag or digest.

    `DigestMismatch` if it is not what a digest names; `Corrupt` if it is no manifest at all.
    """
    digest = oci.sha256(data)
    if ":" in target:
        oci.check_match(digest, target, where)
    return Descriptor(media_type=oci.decode(data, Document, where).kind, digest=digest, size=len(data))


def check_manifest_size(size: int, where: str) -> None:
    """Raise `Corrupt` for a manifest that is too long to be read."""
    if size > oci.MAX_MANIFEST:
        raise Corrupt(f"a manifest of {size} bytes, more than {oci.MAX_MANIFEST}", where=where)


def check_references(
    data: bytes, has_blob: Callable[[Descriptor], bool], has_manifest: Callable[[Descriptor], bool], where: str
) -> None:
    """Raise `NotFound` unless all that a manifest refers to is there; that is asked in parallel."""
    document = oci.decode(data, Document, where)
    questions = [(has_blob, blob) for blob in _distinct(document.blobs)]
    questions += [(has_manifest, child) for child in _distinct(document.manifests)]
    for _, descriptor in questions:
        oci.check_digest(descriptor.digest, where)
    with Workers(_PARALLEL, "shipway-ask") as pool:
        answers = list(pool.map(lambda question: question[0](question[1]), questions))
    for (_, descriptor), is_there in zip(questions, answers, strict=True):
        if not is_there:
            raise NotFound(f"refers to {descriptor.digest}, which is not there", where=where, todo="send it first")


def _distinct(descriptors: Iterable[Descriptor]) -> Iterable[Descriptor]:
    return {descriptor.digest: descriptor for descriptor in descriptors}.values()


def checked_pieces(file: BinaryIO, descriptor: Descriptor, sent: Callable[[int], None], where: str) -> Iterator[bytes]:
    """Yield all of `file` in pieces, telling `sent` of each, and end only if it was what `descriptor` says.

    `Truncated`, `SizeMismatch` or `DigestMismatch` come at the end, so whoever writes the
    pieces somewhere must not have made them visible by then.
    """
    digest, size = hashlib.sha256(), 0
    while True:
        try:
            piece = file.read(PIECE)
        except OSError as error:
            raise Unavailable(f"the blob cannot be read: {error.strerror}", where=where) from error
        digest.update(piece)
        size += len(piece)
        if not piece or size > descriptor.size:
            break
        yield piece
        sent(len(piece))
    oci.check_size(size, descriptor.size, where)
    oci.check_match("sha256:" + digest.hexdigest(), descriptor.digest, where)


def _whole(pieces: Iterator[bytes], length: int, where: str) -> Iterator[memoryview]:
    """Yield exactly `length` bytes of `pieces`, none longer than `PIECE`; `Truncated` if they end before."""
    left = length
    while left:
        piece = next(pieces, b"")
        if not piece:
            raise Truncated(f"ended after {length - left} of {length} bytes", where=where)
        view = memoryview(piece)[:left]
        left -= len(view)
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]
