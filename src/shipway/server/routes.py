"""Which handler a request is for: the paths of the OCI distribution API (distribution-spec, Endpoints)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from aiohttp import HttpVersion11, hdrs, web

from shipway import oci
from shipway.server.answers import Refusal, answer_to

Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]
"""Answers a request, given the repository and what the path names in it: a digest, a tag, an upload."""

_IN_REPOSITORY = re.compile(
    r"/v2/(.+)/(?:(blobs/uploads/|tags/list)|(blobs/uploads|blobs|manifests|referrers)/([^/]+))", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, and the code of the error when it does not find what was asked for."""

    handler: Handler
    unknown: str


class Routes:
    """All routes: by what stands in a path between repository and item, or by the whole path; and by method."""

    def __init__(self, routes: Mapping[str, Mapping[str, Route]]) -> None:
        self._routes = routes

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, with an error if need be."""
        unknown = "UNSUPPORTED"
        try:
            route, repository, item = self._find(request)
            unknown = route.unknown
            if hdrs.EXPECT in request.headers:
                await _let_continue(request)
            return await route.handler(request, repository, item)
        except Exception as error:  # noqa: BLE001  the outermost frame of a request: each becomes an answer
            return answer_to(error, unknown, request)

    def _find(self, request: web.BaseRequest) -> tuple[Route, str, str]:
        place, repository, item = _split(request.rel_url.raw_path)
        methods = self._routes.get(place)
        if methods is None:
            raise Refusal(404, "UNSUPPORTED", "no such path")
        route = methods.get(request.method)
        if route is None:
            raise Refusal(405, "UNSUPPORTED", "not a method of this path", {"Allow": ", ".join(methods)})
        if repository is None:
            raise Refusal(400, "NAME_INVALID", "not a repository name")
        return route, repository, item


@lru_cache(256)  # ranges of one blob are asked for many times
def _split(path: str) -> tuple[str, str | None, str]:
    """Return the place of a path in the routes, its repository, None for what cannot be one, and its item."""
    match = _IN_REPOSITORY.fullmatch(path)
    if match is None:
        return path, "", ""
    repository, collection, kind, item = match.groups()
    return collection or kind, repository if oci.is_repository(repository) else None, unquote(item or "")


async def _let_continue(request: web.BaseRequest) -> None:
    """Tell a client to send its body if it waits for that (RFC 9110, 10.1.1)."""
    if request.headers[hdrs.EXPECT].lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
