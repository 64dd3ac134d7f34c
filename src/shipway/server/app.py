"""The store as an OCI distribution registry (distribution-spec 1.1), over aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from shipway.errors import Unavailable
from shipway.server.backend import Backend
from shipway.server.blobs import Blobs
from shipway.server.gate import Gate
from shipway.server.manifests import Manifests
from shipway.server.opened import Opened
from shipway.server.routes import Route, Routes
from shipway.server.uploads import Uploads
from shipway.server.work import Work

_GRACE = 5.0
"""Seconds that requests in progress get to end when the server stops."""
_EXPIRY = 300.0
"""Seconds between two looks for uploads that nobody continues."""
_READ_BUFFER = 1 << 20
_KEPT = 16 << 20
"""Bytes of freed memory that stay with the process."""


@asynccontextmanager
async def _registry(backend: Backend) -> AsyncIterator[Gate]:
    """Yield what answers requests from `backend`; threads and uploads last as long as the block."""
    work = Work()
    opened, uploads = Opened(backend, work), Uploads(backend, work)
    blobs, manifests = Blobs(backend, opened, uploads, work), Manifests(backend, work)
    expiring = asyncio.create_task(_expire(uploads))
    try:
        yield Gate(_routes(blobs, manifests).answer)
    finally:
        expiring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await expiring
        await uploads.expire(idle=0)
        work.close()
        opened.let_go()


def _routes(blobs: Blobs, manifests: Manifests) -> Routes:
    base, catalog = Route(_base, "UNSUPPORTED"), Route(manifests.catalog, "UNSUPPORTED")
    blob, manifest = Route(blobs.get, "BLOB_UNKNOWN"), Route(manifests.get, "MANIFEST_UNKNOWN")
    return Routes(
        {
            "/v2/": {"GET": base, "HEAD": base},
            "/v2/_catalog": {"GET": catalog},
            "blobs": {"GET": blob, "HEAD": blob, "DELETE": Route(blobs.delete, "BLOB_UNKNOWN")},
            "blobs/uploads/": {"POST": Route(blobs.start, "BLOB_UPLOAD_UNKNOWN")},
            "blobs/uploads": {
                "PATCH": Route(blobs.patch, "BLOB_UPLOAD_UNKNOWN"),
                "PUT": Route(blobs.put, "BLOB_UPLOAD_UNKNOWN"),
                "GET": Route(blobs.status, "BLOB_UPLOAD_UNKNOWN"),
                "DELETE": Route(blobs.cancel, "BLOB_UPLOAD_UNKNOWN"),
            },
            "manifests": {
                "GET": manifest,
                "HEAD": manifest,
                "PUT": Route(manifests.put, "MANIFEST_BLOB_UNKNOWN"),
                "DELETE": Route(manifests.delete, "MANIFEST_UNKNOWN"),
            },
            "tags/list": {"GET": Route(manifests.tags, "NAME_UNKNOWN")},
            "referrers": {"GET": Route(manifests.referrers, "MANIFEST_UNKNOWN")},
        }
    )


def serve(
    backend: Backend, host: str = "127.0.0.1", port: int = 5000, *, ready: Callable[[str], None] | None = None
) -> None:
    """Serve `backend` until SIGINT or SIGTERM, then let requests in progress end; call it in the main thread.

    `ready` is called with the base URL once requests are answered; port 0 takes a free one.
    Raises `Unavailable` if the address cannot be had.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await _run(backend, host, port, ready or (lambda _url: None), stop)

    asyncio.run(main())


@contextmanager
def serving(backend: Backend, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve `backend` from a thread for as long as the block lasts; yields the base URL, `http://host:port`."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        await _run(backend, host, port, lambda url: started.set_result((url, loop, stop)), stop)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="shipway-serve", daemon=True)
    thread.start()
    url, loop, stop = started.result()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _run(backend: Backend, host: str, port: int, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    _keep_freed_memory()
    async with _registry(backend) as gate:
        server = web.Server(gate.let_in, access_log=None, read_bufsize=_READ_BUFFER)
        runner = web.ServerRunner(server, shutdown_timeout=_GRACE)
        try:
            await runner.setup()
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise Unavailable(
                    f"cannot listen there: {error.strerror or error}",
                    where=f"{host}:{port}",
                    todo="choose another port",
                ) from error
            bound = runner.addresses[0][1]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
            await stop.wait()
            await site.stop()
            await gate.close(_GRACE)
        finally:
            await runner.cleanup()


def _keep_freed_memory() -> None:
    """Free a large block once, upon which glibc gives memory back to the system only when twice as much is free.

    Before that it does so from 128 KiB on, and the buffers of each answer are new pages, for up to a sixth of its cost
    (mallopt(3), M_MMAP_THRESHOLD).
    """
    bytes(_KEPT // 2)


async def _expire(uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(_EXPIRY)
        await uploads.expire()


async def _base(_request: web.BaseRequest, _repository: str, _item: str) -> web.StreamResponse:
    """Answer that this is a registry (distribution-spec, Determining Support)."""
    return web.json_response({})
