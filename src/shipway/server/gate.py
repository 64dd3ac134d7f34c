"""What every request passes first: who may come in, what happens to failures, and when it is time to close."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import hdrs, web

from shipway.references import is_loopback
from shipway.server.answers import Handler, refuse

_log = logging.getLogger("shipway.server")


class Gate:
    """Lets requests in, and knows how many are inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._closing = False
        self._empty = asyncio.Event()

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, or turn it away."""
        refused = self._turn_away(request)
        if refused is not None:
            return refused
        self._inside += 1
        try:
            response = await _answer(request, handler)
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
        response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        return response

    async def close(self, grace: float) -> None:
        """Let nobody in any more, and give those inside `grace` seconds to end.

        aiohttp's own way of stopping throws away what still comes in of a body, so that no upload could end.
        """
        self._closing = True
        self._empty.clear()
        if self._inside:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)

    def _turn_away(self, request: web.Request) -> web.Response | None:
        """Refuse what comes after closing, and web pages: a registry's clients are no browsers.

        A page may send requests to this machine's loopback, and by naming it in its own DNS even read
        the answers. The first kind carries an Origin header when it changes something, the second a foreign Host.
        """
        if self._closing:
            response = refuse(503, "UNAVAILABLE", "the server is stopping")
            response.force_close()
            return response
        transport = request.transport
        bound = transport.get_extra_info("sockname") if transport is not None else None
        if bound and is_loopback(str(bound[0])) and not is_loopback(request.host):
            return refuse(403, "DENIED", "this server is for its own machine")
        if hdrs.ORIGIN in request.headers and request.method not in ("GET", "HEAD"):
            return refuse(403, "DENIED", "not for web pages")
        return None


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return refuse(error.status, "UNSUPPORTED", error.reason)
    except Exception:  # noqa: BLE001  the outermost frame of a request; it is logged
        _log.exception("%s %s failed", request.method, request.path)
        return refuse(500, "UNKNOWN", "the server failed; its log says how")
