"""A bucket, or a prefix in one, as a remote.

Keys are those of BuildKit's bucket caches: `<prefix>blobs/sha256:<hex>` and `<prefix>manifests/<name>`, where ours
holds the OCI manifest itself. Each manifest is also there under its digest, so that it can be
asked for by that when the name has moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.exceptions import BaseError

from shipway import oci
from shipway.errors import Conflict, NotFound, RepositoryNotFound, ShipwayError, Truncated
from shipway.oci import Descriptor
from shipway.references import BucketReference, Reference
from shipway.refs import Traffic
from shipway.remotes.bucket.errors import configured, meaning, status_of, translated
from shipway.remotes.bucket.options import open_store, parallel_uploads
from shipway.remotes.checks import (
    PIECE,
    check_manifest_size,
    check_references,
    checked_pieces,
    checked_target,
    describe_manifest,
    reading_range,
)
from shipway.remotes.contract import Expected
from shipway.remotes.traffic import TrafficCounter
from shipway.stopping import apart

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, PutMode

PART = 8 << 20
"""Blobs above this many bytes are sent in parts of this many, several at a time."""
_MAX_PARTS = 9_000
_MAX_COPY = 5 << 30
"""Largest object that S3 copies in one request."""
_READ = PIECE
_MAX_BREAKS = 5
_PAGE = 1000


class BucketRemote:
    """One prefix of a bucket; implements `shipway.remotes.contract.Remote`. Thread-safe.

    Requests are counted as they are made here; those that obstore repeats after failures are not seen.
    """

    def __init__(self, reference: BucketReference, *, part: int = PART) -> None:
        """Speak to the bucket of `reference`; nothing is sent yet. Blobs above `part` bytes go in parts."""
        self.name = reference.place
        self._reference = reference
        self._part = part
        self._traffic = TrafficCounter()
        self._present: set[str] = set()
        """Digests of blobs that were seen to be there; a manifest that refers to them need not ask again."""
        with configured(reference):
            self._store = open_store(reference)

    @property
    def traffic(self) -> Traffic:
        """All that this remote has moved so far."""
        return self._traffic.total

    # Manifests and tags

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, and its descriptor."""
        return self._manifest(checked_target(target))[:2]

    def _manifest(self, target: str) -> tuple[Descriptor, bytes, str]:
        where = self._where(target)
        result = self._get(_manifest_key(self._reference, target), where)
        check_manifest_size(result.meta["size"], where)
        with translated(where):
            data = result.bytes().to_bytes()
        self._traffic.add(received=len(data))
        check_manifest_size(len(data), where)
        return describe_manifest(data, target, where), data, result.meta["e_tag"] or ""

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Store a manifest under its digest, and under `tag`, if that is as `expected`."""
        where = self._where(tag or descriptor.digest)
        oci.verify(data, descriptor.digest, descriptor.size, where)
        if tag is not None:
            checked_target(tag)
        check_references(data, self._is_known, self._has_manifest, where)
        self._put(_manifest_key(self._reference, descriptor.digest), data, where)
        if tag is None:
            return
        key = _manifest_key(self._reference, tag)
        if expected is None:
            self._put(key, data, where)
            return
        mode = self._mode(tag, expected, where)
        try:
            self._put(key, data, where, mode)
        except Conflict:
            # A request that was repeated since its answer got lost conflicts with itself.
            with suppress(NotFound):
                if self.manifest(tag)[0].digest == descriptor.digest:
                    return
            raise

    def _mode(self, tag: str, expected: Expected, where: str) -> PutMode:
        """Return what the bucket is to make sure of."""
        if expected.digest is None:
            return "create"
        try:
            present, _, version = self._manifest(tag)
        except NotFound as error:
            raise Conflict("is not there any more", where=where) from error
        if present.digest != expected.digest:
            raise Conflict(f"names {present.digest} by now", where=where, todo="look at what is there now")
        return {"e_tag": version}

    def _put(self, key: str, data: bytes, where: str, mode: PutMode = "overwrite") -> None:
        with translated(where):
            self._traffic.add(requests=1)
            obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        self._traffic.add(sent=len(data))

    def _has_manifest(self, descriptor: Descriptor) -> bool:
        return self._has(_manifest_key(self._reference, descriptor.digest), descriptor)

    def tags(self) -> Iterator[str]:
        """Yield the names of manifests in the bucket, a page at a time."""
        start = _manifest_key(self._reference, "")
        found = False
        with translated(self.name):
            self._traffic.add(requests=1)
            for page in obstore.list(self._store, prefix=start.rpartition("/")[0] or None, chunk_size=_PAGE):
                for one in page:
                    name = one["path"].removeprefix(start)
                    found = found or one["path"].startswith(start)
                    if one["path"].startswith(start) and oci.is_tag(name):
                        yield name
        if not found:
            raise RepositoryNotFound("nothing was ever put there", where=self.name)

    # Blobs

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""
        is_there = self._has(self._blob_key(descriptor), descriptor)
        if is_there:
            self._present.add(descriptor.digest)
        return is_there

    def _is_known(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self._present or self.has_blob(descriptor)

    def _has(self, key: str, descriptor: Descriptor) -> bool:
        where = self._where(descriptor.digest)
        try:
            with translated(where):
                self._traffic.add(requests=1)
                return apart(partial(obstore.head, self._store, key))["size"] == descriptor.size
        except NotFound:
            return False

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[memoryview]]:
        """Open a stream over `length` bytes of a blob from `offset` on (all of it by default)."""
        where = self._where(descriptor.digest)

        def opening(start: int, end: int) -> AbstractContextManager[Iterator[bytes]]:
            first = self._open_range(descriptor, start, end, where)
            return closing(self._stream(descriptor, first, start, end, where))

        return reading_range(descriptor, offset, length, where, opening)

    def _open_range(self, descriptor: Descriptor, offset: int, end: int, where: str) -> GetResult:
        whole = offset == 0 and end == descriptor.size
        options: GetOptions = {} if whole else {"range": (offset, end)}
        try:
            result = self._get(self._blob_key(descriptor), where, options)
        except _OutsideError:
            # The range is not within the object: find out how long that is.
            with translated(where):
                self._traffic.add(requests=1)
                oci.check_size(obstore.head(self._store, self._blob_key(descriptor))["size"], descriptor.size, where)
            raise
        oci.check_size(result.meta["size"], descriptor.size, where)
        return result

    def _stream(
        self, descriptor: Descriptor, result: GetResult, position: int, end: int, where: str
    ) -> Generator[bytes, None, None]:
        """Yield what comes of a range, going on where a connection broke."""
        breaks = 0
        while position < end:
            began = position
            try:
                pieces = iter(result.stream(min_chunk_size=_READ))
                while (piece := apart(partial(next, pieces, None))) is not None:
                    data = bytes(piece)
                    position += len(data)
                    self._traffic.add(received=len(data))
                    yield data
                error: ShipwayError = Truncated("the answer ended early", where=where)
            except BaseError as failure:
                error = meaning(failure, where)
            if position >= end:
                return
            breaks += 1
            if position == began or breaks > _MAX_BREAKS:
                raise error
            result = self._open_range(descriptor, position, end, where)

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Upload a blob, in parts if it is large; from another prefix of this bucket it is copied there.

        `DigestMismatch`, `Truncated` or `SizeMismatch` if it is not what its descriptor says; then nothing appears.
        """
        where = self._where(descriptor.digest)
        if mount_from is None or not self._copy(descriptor, mount_from, where):
            with open_blob() as file:
                self._upload(descriptor, checked_pieces(file, descriptor, sent, where), where)
        self._present.add(descriptor.digest)

    def _upload(self, descriptor: Descriptor, pieces: Iterator[bytes], where: str) -> None:
        key = self._blob_key(descriptor)
        if descriptor.size <= self._part:
            apart(partial(self._put, key, b"".join(pieces), where))
            return
        part = max(self._part, -(-descriptor.size // _MAX_PARTS // PIECE) * PIECE)
        source = _Source(pieces, self._traffic)
        self._traffic.add(requests=-(-descriptor.size // part) + 2)
        try:
            with translated(where):
                # Whoever gives it up closes the file beneath it: an upload that is left behind comes to nothing,
                # or, if all was read, to a blob that is whole.
                apart(
                    partial(
                        obstore.put,
                        self._store,
                        key,
                        source,
                        use_multipart=True,
                        chunk_size=part,
                        max_concurrency=parallel_uploads(self._reference),
                    )
                )
        except BaseException:
            if source.failure is not None:
                raise source.failure from None  # what went wrong with the pieces is no matter of the bucket's
            raise

    def _copy(self, descriptor: Descriptor, name: str, where: str) -> bool:
        """Have the bucket copy a blob from the remote called `name`, if that is in the same bucket and has it."""
        source, mine = Reference.parse(name), self._reference
        if not isinstance(source, BucketReference) or source.scheme == "file" or descriptor.size > _MAX_COPY:
            return False
        if (source.scheme, source.bucket, source.options) != (mine.scheme, mine.bucket, mine.options):
            return False
        try:
            with translated(where):
                self._traffic.add(requests=1)
                apart(partial(obstore.copy, self._store, _blob_key(source, descriptor), self._blob_key(descriptor)))
        except NotFound:
            return False
        return True

    def close(self) -> None:
        """Let go of connections; obstore closes them when they have not been used for a while."""

    def _get(self, key: str, where: str, options: GetOptions | None = None) -> GetResult:
        self._traffic.add(requests=1)
        try:
            return apart(partial(obstore.get, self._store, key, options=options))
        except (BaseError, FileNotFoundError, ValueError) as error:
            if isinstance(error, BaseError) and options and _is_outside(error):
                raise _OutsideError(where) from None
            raise meaning(error, where) from None

    def _blob_key(self, descriptor: Descriptor) -> str:
        oci.check_digest(descriptor.digest, self.name)
        return _blob_key(self._reference, descriptor)

    def _where(self, target: str) -> str:
        return f"{self.name}#{target}"


class _OutsideError(Truncated):
    """The range that was asked for is not within the object."""

    def __init__(self, where: str) -> None:
        super().__init__("is shorter than it should be", where=where)


class _Source:
    """Pieces on their way into a multipart upload; remembers what went wrong with them."""

    def __init__(self, pieces: Iterator[bytes], traffic: TrafficCounter) -> None:
        self._pieces = pieces
        self._traffic = traffic
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise
        self._traffic.add(sent=len(piece))
        return piece


def _manifest_key(place: BucketReference, target: str) -> str:
    return f"{_root(place)}{place.option('manifests_prefix', 'manifests/')}{target}"


def _blob_key(place: BucketReference, descriptor: Descriptor) -> str:
    return f"{_root(place)}{place.option('blobs_prefix', 'blobs/')}{descriptor.digest}"


def _root(place: BucketReference) -> str:
    """Return what all keys begin with; for a directory that is its path."""
    if place.scheme == "file":
        return place.bucket.removeprefix("/") + "/"
    return f"{place.prefix}/" if place.prefix else ""


def _is_outside(error: BaseError) -> bool:
    return status_of(error) == "416" or "Requested range was invalid" in str(error)
