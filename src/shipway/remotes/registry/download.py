"""Reading blobs: whole or by single ranges, and on from where a connection broke."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from shipway.errors import SizeMismatch, Truncated, Unavailable
from shipway.oci import check_size
from shipway.remotes.checks import end_of_range
from shipway.remotes.contract import RangesRefused
from shipway.remotes.registry.auth import Scope
from shipway.remotes.registry.errors import Transient
from shipway.remotes.registry.session import Session
from shipway.remotes.registry.transport import Origin, Response

PIECE = 1 << 20
"""Most bytes in one piece of a stream."""
_MAX_BREAKS = 5
_PROGRESS = 16 << 20
"""A break after this many bytes is not held against the connection."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})")


@contextmanager
def download(
    session: Session, url: str, *, scope: Scope, where: str, size: int, offset: int, length: int | None
) -> Iterator[Iterator[bytes]]:
    """Open a stream over `length` bytes from `offset` on of the blob of `size` bytes at `url`."""
    end = end_of_range(size, offset, length, where)
    stream = _Download(session, url, scope=scope, where=where, size=size, position=offset, end=end)
    try:
        stream.open()
        yield stream.pieces()
    finally:
        stream.abort()


class _Download:
    """A range on its way: `position` is the next byte to come, `end` the one after the last."""

    def __init__(
        self, session: Session, url: str, *, scope: Scope, where: str, size: int, position: int, end: int
    ) -> None:
        self._session = session
        self._url = url
        self._origin = Origin.of(url)
        self._scope = scope
        self._where = where
        self._size = size
        self._start = position
        self._position = position
        self._end = end
        self._response: Response | None = None
        self._breaks = 0
        self._skip = 0
        """Bytes at the beginning of the present answer that came before."""

    def open(self) -> None:
        """Ask for what is still to come, if anything."""
        if self._position == self._end:
            return
        all_of_it = self._start == 0 and self._end == self._size
        if self._refused() and not all_of_it:
            raise self._no_ranges()
        whole = all_of_it and (self._position == 0 or self._refused())
        headers = {} if whole else {"range": f"bytes={self._position}-{self._end - 1}"}
        response = self._session.request(
            "GET", self._url, scope=self._scope, accept=(200, 206, 416), where=self._where, headers=headers
        )
        try:
            self._skip = 0
            coming = self._check(response, whole=whole, all_of_it=all_of_it)
            if response.length is not None:
                check_size(response.length, coming, self._where)
        except BaseException:
            response.abort()
            raise
        self._response = response

    def _check(self, response: Response, *, whole: bool, all_of_it: bool) -> int:
        """Return how many bytes are to come, once the answer says it brings exactly those."""
        if response.status == 200:  # noqa: PLR2004  HTTP's number
            if not whole:
                self._session.refuses_ranges.add(self._origin)
            if not all_of_it:
                raise self._no_ranges()
            self._skip = self._position
            return self._size
        stated = response.headers.get("content-range", "")
        if response.status == 416:  # noqa: PLR2004  HTTP's number
            match = _UNSATISFIED.fullmatch(stated)
            check_size(int(match[1]) if match else self._position, self._size, self._where)
            raise Unavailable("the server refuses a range that is within the blob", where=self._where)
        match = _CONTENT_RANGE.fullmatch(stated)
        if match is None or whole:
            raise self._wrong_range(stated)
        if match[3] != "*":
            check_size(int(match[3]), self._size, self._where)
        if (int(match[1]), int(match[2])) != (self._position, self._end - 1):
            raise self._wrong_range(stated)
        return self._end - self._position

    def _refused(self) -> bool:
        return self._origin in self._session.refuses_ranges

    def _no_ranges(self) -> RangesRefused:
        return RangesRefused("the server does not answer ranges", where=self._where)

    def _wrong_range(self, stated: str) -> Unavailable:
        return Unavailable(
            f"the server answers with a range that was not asked for: {stated[:60]!r}", where=self._where
        )

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes in order, resuming after breaks."""
        while self._position < self._end:
            began = self._position
            try:
                if self._response is None:
                    self.open()
                yield from self._answer()
            except (Truncated, Transient) as error:
                self._resume_or_raise(began, error)

    def _answer(self) -> Iterator[bytes]:
        """Yield what the present answer brings."""
        response = self._response
        assert response is not None
        while self._skip:
            skipped = len(response.read(min(PIECE, self._skip)))
            if not skipped:
                raise Truncated("the server's answer ended early", where=self._where)
            self._skip -= skipped
        while self._position < self._end:
            piece = response.read(min(PIECE, self._end - self._position))
            if not piece:
                raise Truncated("the server's answer ended early", where=self._where)
            self._position += len(piece)
            yield piece
        if response.length is None and response.read(1):
            raise SizeMismatch(f"has more than the {self._end} bytes that were promised", where=self._where)
        response.close()
        self._response = None

    def _resume_or_raise(self, began: int, error: Truncated | Transient) -> None:
        self.abort()
        came = self._position - began
        if came < _PROGRESS:
            self._breaks += 1
        if came and self._breaks <= _MAX_BREAKS:
            return
        done = f"ended after {self._position - self._start} of {self._end - self._start} bytes"
        if isinstance(error, Truncated):
            raise Truncated(done, where=self._where) from error
        raise Unavailable(f"{done}: {error.what}", where=self._where) from error

    def abort(self) -> None:
        """Close the connection if something is still to come on it."""
        if self._response is not None:
            self._response.abort()
            self._response = None
