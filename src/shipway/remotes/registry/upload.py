"""Sending blobs: by reference where the registry has them already, in one piece, or in chunks that can be resumed.

Where an upload in chunks goes on is remembered, so that the next push goes on too, in whatever process
(distribution-spec, Resuming an incomplete upload). What the registry says of it may be wrong, or of an upload that
has nothing to do with the blob: the digest decides in the end, and then it begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from shipway.errors import Corrupt, Invalid, NotFound, ShipwayError, Truncated, Unauthorized, Unavailable
from shipway.oci import Descriptor, check_match
from shipway.remotes.contract import Unfinished
from shipway.remotes.registry.auth import Scope
from shipway.remotes.registry.errors import Transient
from shipway.remotes.registry.session import Session
from shipway.remotes.registry.transport import Origin, Response, resolve

CHUNK = 64 << 20
"""Blobs above this many bytes go in chunks of this many."""
_PIECE = 256 << 10
"""Each has to be gone within the connect timeout; that is what a slow line has to manage."""
_RESUMES = 3
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_OCTETS = {"content-type": "application/octet-stream"}


class Beginning:
    """What is remembered of the upload of one blob to one place; nothing where there is nobody to remember it."""

    def __init__(self, memory: Unfinished | None, place: str, digest: str) -> None:
        self.is_kept = memory is not None
        self._memory = memory
        self._key = (place, digest)

    def take(self) -> str | None:
        """Return where to go on with what an earlier attempt began."""
        return self._memory.take(*self._key) if self._memory is not None else None

    def note(self, location: str) -> None:
        """Remember where it goes on now."""
        if self._memory is not None:
            self._memory.note(*self._key, location)

    def leave(self) -> None:
        """Leave it to whoever comes next."""
        if self._memory is not None:
            self._memory.leave(*self._key)

    def forget(self) -> None:
        """Let the next attempt begin anew."""
        if self._memory is not None:
            self._memory.forget(*self._key)


class Upload:
    """One blob on its way to one repository."""

    def __init__(
        self,
        session: Session,
        url: str,
        *,
        scope: Scope,
        where: str,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None],
        beginning: Beginning,
        chunk: int = CHUNK,
    ) -> None:
        """Prepare to send to `url`, the repository's `…/blobs/uploads/`; `where` names the blob in messages."""
        self._session = session
        self._url = url
        self._scope = scope
        self._where = where
        self._blob = descriptor
        self._open_blob = open_blob
        self._sent = sent
        self._told = 0
        self._chunk = chunk
        self._beginning = beginning
        self._accepted = 0
        """Chunks that the registry took."""

    def run(self, mount: str = "") -> None:
        """Send the blob; `mount` is a query that asks to take it from another repository instead."""
        self._session.retrying(lambda: self._attempt(mount))

    def _attempt(self, mount: str) -> None:
        if self._is_large and self._went_on():
            return
        location = self._start(mount)
        if location is None:
            return
        try:
            self._send(location, 0)
        except NotFound as error:
            raise Transient(f"the registry lost the upload ({error.what})", where=self._where) from error

    @property
    def _is_large(self) -> bool:
        return self._blob.size > self._chunk

    def _went_on(self) -> bool:
        """Finish what an earlier attempt began, if there is such a thing and it can be gone on with."""
        before = self._beginning.take()
        if before is None:
            return False
        accepted = self._accepted
        try:
            location = resolve(self._url, before)
            status = self._status(location)
            if status is not None and Origin.of(status[0]) == Origin.of(location):
                self._send(*status)
                return True
        except Unavailable:
            if self._accepted > accepted:
                raise  # which left it to the next attempt
            self._beginning.leave()
            return False
        except (Corrupt, Invalid, NotFound, Unauthorized):
            pass  # it was of no use; if there is more to it, doing it anew will show
        self._beginning.forget()
        return False

    def _send(self, location: str, offset: int) -> None:
        """Send the blob from `offset` on. What fails is called off, or left to the next attempt."""
        try:
            with self._open_blob() as file:
                self._tell(offset)
                if self._is_large:
                    self._beginning.note(location)
                    self._finish(self._send_chunks(location, file, offset), None)
                    self._beginning.forget()
                else:
                    self._finish(location, file)
        except BaseException as error:
            is_good = isinstance(error, Unavailable) or not isinstance(error, ShipwayError)
            if self._is_large and self._beginning.is_kept:
                if is_good:
                    self._beginning.leave()
                    raise
                self._beginning.forget()
            if not isinstance(error, Unavailable):  # then there is nobody to tell
                self._cancel(location)
            raise

    def _start(self, mount: str) -> str | None:
        """Return where to send the blob, None if the registry took it from another repository."""
        headers = {"content-length": "0"}
        with self._session.request(
            "POST", self._url + mount, scope=self._scope, accept=(201, 202), where=self._where, headers=headers
        ) as response:
            if response.status == 201:  # noqa: PLR2004  HTTP's number
                self._check_digest(response)
                return None
            least = response.headers.get("oci-chunk-min-length", "")
            if least.isascii() and least.isdecimal():
                self._chunk = max(self._chunk, int(least[:12]))
            return self._location(response)

    def _finish(self, location: str, file: BinaryIO | None) -> None:
        """Complete the upload, with all of `file` or after its chunks, and compare digests."""
        size = self._blob.size if file else 0
        separator = "&" if urlsplit(location).query else "?"
        with self._session.request(
            "PUT",
            f"{location}{separator}digest={quote(self._blob.digest, safe='')}",
            scope=self._scope,
            accept=(201, 204),
            where=self._where,
            headers={**_OCTETS, "content-length": str(size)},
            body=(lambda: self._pieces(file, 0, size)) if file else None,
            retry=False,
        ) as response:
            self._check_digest(response)

    def _send_chunks(self, location: str, file: BinaryIO, offset: int) -> str:
        """Send the blob from `offset` on by PATCH requests; return where to complete the upload."""
        resumes = 0
        while offset < self._blob.size:
            try:
                location, offset = self._send_chunk(location, file, offset)
                self._accepted += 1
                resumes = 0
            except Transient:
                resumes += 1
                if resumes > _RESUMES:
                    raise
                status = self._status(location)
                if status is None:
                    raise
                location, offset = status
            self._beginning.note(location)
        return location

    def _send_chunk(self, location: str, file: BinaryIO, offset: int) -> tuple[str, int]:
        size = min(self._chunk, self._blob.size - offset)
        headers = {"content-length": str(size), "content-range": f"{offset}-{offset + size - 1}"}
        with self._session.request(
            "PATCH",
            location,
            scope=self._scope,
            accept=(202,),
            where=self._where,
            headers={**_OCTETS, **headers},
            body=lambda: self._pieces(file, offset, size),
            retry=False,
        ) as response:
            return self._location(response), offset + size

    def _status(self, location: str) -> tuple[str, int] | None:
        """Return where to go on and from which byte, None if the registry cannot say."""
        try:
            with self._session.request(
                "GET", location, scope=self._scope, accept=(204,), where=self._where
            ) as response:
                match = _RANGE.fullmatch(response.headers.get("range", ""))
                # An empty upload has no last byte; registries say 0-0 then.
                offset = int(match[1]) + 1 if match and match[1] != "0" else 0
                return (self._location(response), offset) if offset <= self._blob.size else None
        except (Invalid, NotFound):
            return None

    def _location(self, response: Response) -> str:
        location = response.headers.get("location")
        if not location:
            raise Unavailable("the registry does not say where to upload to", where=self._where)
        return resolve(response.url, location)

    def _check_digest(self, response: Response) -> None:
        stated = response.headers.get("docker-content-digest", "")
        if stated.startswith("sha256:"):
            check_match(stated, self._blob.digest, self._where)

    def _pieces(self, file: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes of the blob from `offset` on, and tell of those that go for the first time."""
        end = offset + size
        while offset < end:
            piece = self._read(file, offset, min(_PIECE, end - offset))
            yield piece
            offset += len(piece)
            self._tell(offset)

    def _tell(self, offset: int) -> None:
        """Tell how far it has come, if that is further than before."""
        if offset > self._told:
            self._told, news = offset, offset - self._told
            self._sent(news)

    def _read(self, file: BinaryIO, offset: int, size: int) -> bytes:
        try:
            file.seek(offset)
            piece = file.read(size)
        except OSError as error:
            raise Unavailable(f"the blob cannot be read: {error.strerror}", where=self._where) from error
        if not piece:
            raise Truncated(f"ended after {offset} of {self._blob.size} bytes", where=self._where)
        return piece

    def _cancel(self, location: str) -> None:
        """Tell the registry to forget the upload, if it will hear of it."""
        try:
            self._session.request(
                "DELETE",
                location,
                scope=self._scope,
                accept=(200, 202, 204),
                where=self._where,
                retry=False,
            ).close()
        except ShipwayError:
            return  # it forgets by itself in time, and what went wrong before is what counts
