"""Answers with a blob or a range of it (RFC 9110, 13 and 14)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from functools import partial

from aiohttp import ETag, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from shipway.server.opened import OpenBlob
from shipway.server.work import Work

_log = logging.getLogger("shipway.server")

_AT_ONCE = 256 << 10
"""Bytes up to which a read and a write cost no more than sendfile(2) with what asyncio does before it."""
_SINGLE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.ASCII)


async def answer_with(blob: OpenBlob, request: web.BaseRequest, work: Work) -> web.StreamResponse:
    """Return the answer to GET or HEAD of `blob`.

    A blob's entity tag is its digest, so that a download may go on at any server that has it.
    """
    tag = f'"{blob.digest}"'
    headers = {
        "Docker-Content-Digest": blob.digest,
        hdrs.CONTENT_TYPE: "application/octet-stream",
        hdrs.ETAG: tag,
        hdrs.ACCEPT_RANGES: "bytes",
    }
    refused = _unmet(request, blob.digest)
    if refused:
        return web.Response(status=refused, headers=headers)
    wanted = _range_of(request, tag, blob.size)
    if wanted is None:
        first, count, status = 0, blob.size, 200
    elif wanted[1]:
        (first, count), status = wanted, 206
        headers[hdrs.CONTENT_RANGE] = f"bytes {first}-{first + count - 1}/{blob.size}"
    else:
        headers[hdrs.CONTENT_RANGE] = f"bytes */{blob.size}"
        return web.Response(status=416, headers=headers)
    if count > _AT_ONCE or request.method == hdrs.METH_HEAD:
        return _Part(blob, first, count, work, status=status, headers=headers)
    data = blob.read_now(first, count)
    if data is None:
        data = await work.quick(lambda: blob.read(first, count))
    return web.Response(body=data, status=status, headers=headers)


class _Part(web.StreamResponse):
    """A part of a file, sent by sendfile(2)."""

    def __init__(
        self, blob: OpenBlob, first: int, count: int, work: Work, *, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.content_length = count
        self._blob = blob
        self._first = first
        self._count = count
        self._work = work

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers and the part."""
        writer = await super().prepare(request)
        if writer is None or request.method == hdrs.METH_HEAD:
            return writer
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        try:
            sent = await asyncio.get_running_loop().sendfile(
                transport, self._blob.file, self._first, self._count, fallback=False
            )
        except asyncio.SendfileNotAvailableError:
            await self._copy(writer)
        else:
            if sent < self._count:
                _log.error("%s is shorter than it was; run `shipway verify`", self._blob.digest)
                raise ConnectionAbortedError("the blob ended early")
        await self.write_eof()
        return writer

    async def _copy(self, writer: AbstractStreamWriter) -> None:
        """Send the part a piece at a time. Asyncio's own way would move the position of the file, which others read."""
        end = self._first + self._count
        for first in range(self._first, end, _AT_ONCE):
            count = min(_AT_ONCE, end - first)
            await writer.write(await self._work.quick(partial(self._blob.read, first, count)))


def _unmet(request: web.BaseRequest, digest: str) -> int:
    """Return the status of the answer if a condition is not met, else 0."""
    if hdrs.IF_MATCH in request.headers and not _names(request.if_match, digest, weakly=False):
        return 412
    if hdrs.IF_NONE_MATCH in request.headers and _names(request.if_none_match, digest, weakly=True):
        return 304
    return 0


def _names(tags: Iterable[ETag] | None, digest: str, *, weakly: bool) -> bool:
    return any(tag.value in (digest, "*") and (weakly or not tag.is_weak) for tag in tags or ())


def _range_of(request: web.BaseRequest, tag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the number of bytes asked for of `size`; the number is 0 if there are no such bytes.

    None is for the whole: nothing else is asked for, or no single range that makes sense, or one of another blob.
    """
    asked = request.headers.get(hdrs.RANGE)
    if asked is None or request.method != hdrs.METH_GET or request.headers.get(hdrs.IF_RANGE, tag) != tag:
        return None
    match = _SINGLE_RANGE.fullmatch(asked.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        count = min(int(suffix), size)
        return size - count, count
    begin = int(first)
    if last is None:
        return begin, max(size - begin, 0)
    if int(last) < begin:
        return None
    return begin, max(min(int(last) + 1, size) - begin, 0)
