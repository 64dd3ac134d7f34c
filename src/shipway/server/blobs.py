"""Blobs over HTTP: reading them, by ranges too, and uploading them (distribution-spec, Pulling and Pushing blobs)."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from shipway import oci
from shipway.errors import Invalid, NotFound
from shipway.server.answers import Refusal
from shipway.server.backend import Backend
from shipway.server.opened import Opened
from shipway.server.sending import answer_with
from shipway.server.uploads import Upload, Uploads
from shipway.server.work import Work

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?", re.ASCII)


class Blobs:
    """The handlers of `…/blobs/…`."""

    def __init__(self, backend: Backend, opened: Opened, uploads: Uploads, work: Work) -> None:
        self._backend = backend
        self._opened = opened
        self._uploads = uploads
        self._work = work

    async def get(self, request: web.BaseRequest, _repository: str, digest: str) -> web.StreamResponse:
        """Answer GET and HEAD of a blob."""
        return await answer_with(await self._opened.get(checked_digest(digest)), request, self._work)

    async def delete(self, _request: web.BaseRequest, _repository: str, _digest: str) -> web.StreamResponse:
        """Refuse: blobs are shared by all repositories and go when nothing needs them."""
        raise Refusal(405, "UNSUPPORTED", "blobs are pruned by the store, not deleted one by one")

    async def start(self, request: web.BaseRequest, repository: str, _item: str) -> web.StreamResponse:
        """Answer POST: mount a blob that is here, take one that comes with the request, or begin an upload."""
        query = request.query
        if "mount" in query and await self._is_here(checked_digest(query["mount"])):
            return _created(repository, query["mount"])
        digest = checked_digest(query["digest"]) if "digest" in query else None
        upload = await self._uploads.start(repository)
        if digest is None:
            return web.Response(status=202, headers=upload.headers())
        async with self._uploads.continued(upload.identity, repository):
            await self._take(upload, request, digest)
        return _created(repository, digest)

    async def patch(self, request: web.BaseRequest, repository: str, identity: str) -> web.StreamResponse:
        """Answer PATCH: append to an upload."""
        async with self._uploads.continued(identity, repository) as upload:
            await self._uploads.receive(upload, request, _announced(request, upload))
            return web.Response(status=202, headers=upload.headers())

    async def put(self, request: web.BaseRequest, repository: str, identity: str) -> web.StreamResponse:
        """Answer PUT: append what comes with it and make the upload a blob."""
        digest = checked_digest(request.query.get("digest", ""))
        async with self._uploads.continued(identity, repository) as upload:
            await self._take(upload, request, digest)
        return _created(repository, digest)

    async def status(self, _request: web.BaseRequest, repository: str, identity: str) -> web.StreamResponse:
        """Answer GET of an upload: how far it is."""
        async with self._uploads.continued(identity, repository) as upload:
            return web.Response(status=204, headers=upload.headers())

    async def cancel(self, _request: web.BaseRequest, repository: str, identity: str) -> web.StreamResponse:
        """Answer DELETE of an upload: forget it."""
        async with self._uploads.continued(identity, repository) as upload:
            await self._uploads.drop(upload)
            return web.Response(status=204)

    async def _take(self, upload: Upload, request: web.BaseRequest, digest: str) -> None:
        await self._uploads.receive(upload, request, _announced(request, upload))
        await self._uploads.commit(upload, digest)

    async def _is_here(self, digest: str) -> bool:
        try:
            await self._work.quick(lambda: self._backend.blob_path(digest))
        except NotFound:
            return False
        return True


def checked_digest(text: str) -> str:
    """Return a digest as it is; a refusal if it is not one that is supported."""
    try:
        return oci.check_digest(text)
    except Invalid as error:
        raise Refusal(400, "DIGEST_INVALID", error.what) from None


def _announced(request: web.BaseRequest, upload: Upload) -> int | None:
    """Return the length that a Content-Range or Content-Length announces; a refusal if the range does not fit on."""
    stated = request.headers.get(hdrs.CONTENT_RANGE)
    if stated is None:
        return request.content_length
    match = _CONTENT_RANGE.fullmatch(stated.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "the Content-Range is not well-formed")
    if int(match[1]) != upload.writer.size:
        raise Refusal(416, "BLOB_UPLOAD_INVALID", f"the next byte is {upload.writer.size}", upload.headers())
    length = int(match[2]) - int(match[1]) + 1
    if request.content_length not in (None, length):
        raise Refusal(400, "SIZE_INVALID", "Content-Range and Content-Length disagree")
    return length


def _created(repository: str, digest: str) -> web.Response:
    location = f"/v2/{repository}/blobs/{digest}"
    return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})
