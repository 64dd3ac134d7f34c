"""Sending blobs: by reference where the registry has them already, in one piece, or in chunks that can be resumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from shipway.errors import Invalid, NotFound, ShipwayError, Truncated, Unavailable
from shipway.oci import Descriptor, check_match
from shipway.remotes.registry.auth import Scope
from shipway.remotes.registry.errors import Transient
from shipway.remotes.registry.session import Session
from shipway.remotes.registry.transport import Response, resolve

CHUNK = 64 << 20
"""Blobs above this many bytes go in chunks of this many."""
_PIECE = 256 << 10
"""Each has to be gone within the connect timeout; that is what a slow line has to manage."""
_RESUMES = 3
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_OCTETS = {"content-type": "application/octet-stream"}


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

    def run(self, mount: str = "") -> None:
        """Send the blob; `mount` is a query that asks to take it from another repository instead."""
        self._session.retrying(lambda: self._attempt(mount))

    def _attempt(self, mount: str) -> None:
        location = self._start(mount)
        if location is None:
            return
        try:
            with self._open_blob() as file:
                if self._blob.size <= self._chunk:
                    self._finish(location, file)
                else:
                    self._finish(self._send_chunks(location, file), None)
        except NotFound as error:
            self._cancel(location)
            raise Transient(f"the registry lost the upload ({error.what})", where=self._where) from error
        except BaseException as error:
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

    def _send_chunks(self, location: str, file: BinaryIO) -> str:
        """Send the blob by PATCH requests; return where to complete the upload."""
        offset = resumes = 0
        while offset < self._blob.size:
            try:
                location, offset = self._send_chunk(location, file, offset)
                resumes = 0
            except Transient as error:
                resumes += 1
                if resumes > _RESUMES:
                    raise
                location, offset = self._status(location, error)
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

    def _status(self, location: str, cause: Transient) -> tuple[str, int]:
        """Return where to go on and from which byte, or raise `cause` if the registry cannot say."""
        try:
            with self._session.request(
                "GET", location, scope=self._scope, accept=(204,), where=self._where
            ) as response:
                match = _RANGE.fullmatch(response.headers.get("range", ""))
                # An empty upload has no last byte; registries say 0-0 then.
                offset = int(match[1]) + 1 if match and match[1] != "0" else 0
                if offset > self._blob.size:
                    raise cause
                return self._location(response), offset
        except (Invalid, NotFound):
            raise cause from None

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
