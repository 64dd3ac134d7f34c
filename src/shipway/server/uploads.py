"""Uploads in progress: what arrived so far, between one request and the next."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shipway.server.answers import Refusal
from shipway.server.backend import Backend, BlobWriter
from shipway.server.work import Work

MAX_UPLOADS = 256
"""Uploads that may be in progress at a time."""
IDLE = 3600.0
"""Seconds after which an upload that nobody continues is dropped."""
STALLED = 30.0
"""Seconds that a client may take to send anything more of a body."""
_BATCH = 1 << 20


class Upload:
    """One upload: its writer, and the lock that keeps two requests from writing at once."""

    def __init__(self, identity: str, repository: str, writer: BlobWriter) -> None:
        self.identity = identity
        self.repository = repository
        self.writer = writer
        self.lock = asyncio.Lock()
        self.touched = time.monotonic()

    @property
    def location(self) -> str:
        """The path to continue it at."""
        return f"/v2/{self.repository}/blobs/uploads/{self.identity}"

    def headers(self) -> dict[str, str]:
        """Return what every answer about it says. An empty upload has the range 0-0, as clients expect."""
        last = max(self.writer.size - 1, 0)
        return {"Location": self.location, "Docker-Upload-UUID": self.identity, "Range": f"0-{last}"}


class Uploads:
    """All uploads in progress; bounded in number and in idle time."""

    def __init__(self, backend: Backend, work: Work) -> None:
        self._backend = backend
        self._work = work
        self._open: dict[str, Upload] = {}

    async def start(self, repository: str) -> Upload:
        """Return a new upload, open to be continued by later requests."""
        await self.expire()
        if len(self._open) >= MAX_UPLOADS:
            raise Refusal(429, "TOOMANYREQUESTS", "too many uploads in progress", {"Retry-After": "10"})
        upload = Upload(secrets.token_urlsafe(16), repository, self._backend.ingest())
        self._open[upload.identity] = upload
        try:
            await self._work.quick(upload.writer.__enter__)
        except BaseException:
            del self._open[upload.identity]
            raise
        return upload

    @asynccontextmanager
    async def continued(self, identity: str, repository: str) -> AsyncIterator[Upload]:
        """Yield an upload to this request alone."""
        unknown = Refusal(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
        upload = self._open.get(identity)
        if upload is None or upload.repository != repository:
            raise unknown
        async with upload.lock:
            if identity not in self._open:  # it ended while this request waited
                raise unknown
            try:
                yield upload
            finally:
                upload.touched = time.monotonic()

    async def receive(self, upload: Upload, request: web.BaseRequest, limit: int | None = None) -> None:
        """Append a request's body, at most `limit` bytes; what arrived stays when the connection breaks.

        One batch is hashed and written, in a thread, while the next comes in.
        """
        writing: asyncio.Task[None] | None = None
        batch: list[bytes] = []
        size = total = 0
        try:
            while True:
                async with asyncio.timeout(STALLED):
                    piece = await request.content.readany()
                total += len(piece)
                if limit is not None and total > limit:
                    raise Refusal(400, "SIZE_INVALID", f"the body is longer than the {limit} bytes announced")
                batch.append(piece)
                size += len(piece)
                if size >= _BATCH or not piece:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write(upload, batch))
                    batch, size = [], 0
                if not piece:
                    break
        except TimeoutError:
            raise Refusal(408, "BLOB_UPLOAD_INVALID", "the body stopped coming", upload.headers()) from None
        finally:
            if writing is not None:
                await writing
            if batch:
                await self._write(upload, batch)

    async def _write(self, upload: Upload, batch: list[bytes]) -> None:
        def write() -> None:
            for piece in batch:
                upload.writer.write(piece)

        await self._work.quick(write)

    async def commit(self, upload: Upload, digest: str) -> None:
        """Make an upload a blob; it ends here, well or not."""
        try:
            await self._work.quick(lambda: upload.writer.commit(digest))
        finally:
            await self.drop(upload)

    async def drop(self, upload: Upload) -> None:
        """End an upload; what was not committed is gone."""
        if self._open.pop(upload.identity, None) is not None:
            await self._work.quick(lambda: upload.writer.__exit__(None, None, None))

    async def expire(self, idle: float = IDLE) -> None:
        """Drop the uploads that nobody has continued for `idle` seconds."""
        now = time.monotonic()
        for upload in list(self._open.values()):
            if now - upload.touched >= idle and not upload.lock.locked():
                await self.drop(upload)
