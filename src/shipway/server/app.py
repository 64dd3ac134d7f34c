"""The store as an OCI distribution registry (distribution-spec 1.1), over aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from aiohttp import web

from shipway import oci
from shipway.errors import Unavailable
from shipway.server.answers import Handler, answering, refuse
from shipway.server.backend import Backend
from shipway.server.blobs import Blobs
from shipway.server.gate import Gate
from shipway.server.manifests import Manifests
from shipway.server.opened import Opened
from shipway.server.uploads import Uploads
from shipway.server.work import Work

_GATE = web.AppKey("gate", Gate)

_GRACE = 5.0
"""Seconds that requests in progress get to end when the server stops."""
_EXPIRY = 300.0
"""Seconds between two looks for uploads that nobody continues."""
_READ_BUFFER = 1 << 20


def make_app(backend: Backend) -> web.Application:
    """Return the application that serves `backend`. It holds threads from its start to its clean-up."""
    work = Work()
    opened, uploads = Opened(backend, work), Uploads(backend, work)
    blobs, manifests = Blobs(backend, opened, uploads, work), Manifests(backend, work)

    async def housekeeping(_app: web.Application) -> AsyncIterator[None]:
        expiring = asyncio.create_task(_expire(uploads))
        yield
        expiring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await expiring
        await uploads.expire(idle=0)
        work.close()
        opened.let_go()

    gate = Gate()
    app = web.Application(client_max_size=oci.MAX_MANIFEST, middlewares=[gate.let_in])
    app[_GATE] = gate
    app.cleanup_ctx.append(housekeeping)

    def route(method: str, path: str, handler: Handler, unknown: str) -> None:
        app.router.add_route(method, path, answering(_named(handler), unknown=unknown))

    for method in ("GET", "HEAD"):
        route(method, "/v2/", _base, "UNSUPPORTED")
        route(method, "/v2/{name:.+}/blobs/{digest}", blobs.get, "BLOB_UNKNOWN")
        route(method, "/v2/{name:.+}/manifests/{target}", manifests.get, "MANIFEST_UNKNOWN")
    route("DELETE", "/v2/{name:.+}/blobs/{digest}", blobs.delete, "BLOB_UNKNOWN")
    route("POST", "/v2/{name:.+}/blobs/uploads/", blobs.start, "BLOB_UPLOAD_UNKNOWN")
    route("PATCH", "/v2/{name:.+}/blobs/uploads/{upload}", blobs.patch, "BLOB_UPLOAD_UNKNOWN")
    route("PUT", "/v2/{name:.+}/blobs/uploads/{upload}", blobs.put, "BLOB_UPLOAD_UNKNOWN")
    route("GET", "/v2/{name:.+}/blobs/uploads/{upload}", blobs.status, "BLOB_UPLOAD_UNKNOWN")
    route("DELETE", "/v2/{name:.+}/blobs/uploads/{upload}", blobs.cancel, "BLOB_UPLOAD_UNKNOWN")
    route("PUT", "/v2/{name:.+}/manifests/{target}", manifests.put, "MANIFEST_BLOB_UNKNOWN")
    route("DELETE", "/v2/{name:.+}/manifests/{target}", manifests.delete, "MANIFEST_UNKNOWN")
    route("GET", "/v2/{name:.+}/tags/list", manifests.tags, "NAME_UNKNOWN")
    route("GET", "/v2/{name:.+}/referrers/{digest}", manifests.referrers, "MANIFEST_UNKNOWN")
    route("GET", "/v2/_catalog", manifests.catalog, "UNSUPPORTED")
    return app


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
    app = make_app(backend)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE, read_bufsize=_READ_BUFFER)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise Unavailable(
                f"cannot listen there: {error.strerror or error}", where=f"{host}:{port}", todo="choose another port"
            ) from error
        bound = runner.addresses[0][1]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
        await stop.wait()
        await site.stop()
        await app[_GATE].close(_GRACE)
    finally:
        await runner.cleanup()


async def _expire(uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(_EXPIRY)
        await uploads.expire()


async def _base(_request: web.Request) -> web.StreamResponse:
    """Answer that this is a registry (distribution-spec, Determining Support)."""
    return web.json_response({})


def _named(handler: Handler) -> Handler:
    """Return `handler`, to be called for repository names that are valid alone."""

    async def checked(request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name")
        if name is not None and not oci.is_repository(name):
            return refuse(400, "NAME_INVALID", "not a repository name")
        return await handler(request)

    return checked
