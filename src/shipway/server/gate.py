"""What every request passes first: who may come in, and when it is time to close."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from shipway.references import is_loopback
from shipway.server.answers import refuse

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Gate:
    """Lets requests in, and knows how many are inside."""

    def __init__(self, answer: Answer) -> None:
        """Let them in to `answer`."""
        self._answer = answer
        self._inside = 0
        self._closing = False
        self._empty = asyncio.Event()

    async def let_in(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or turn it away."""
        refused = self._turn_away(request)
        if refused is not None:
            return refused
        self._inside += 1
        try:
            response = await self._answer(request)
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

    def _turn_away(self, request: web.BaseRequest) -> web.Response | None:
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
