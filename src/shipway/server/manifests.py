"""Manifests, tags and referrers over HTTP (distribution-spec, Pulling, Content discovery, Content management)."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, UnknownMediaType
from shipway.oci import Descriptor
from shipway.server.answers import Refusal
from shipway.server.backend import Backend
from shipway.server.blobs import checked_digest
from shipway.server.referrers import Referrers, subject_of
from shipway.server.work import Work

_PAGE = 10_000
"""The most names in one answer; those who asked for more, or for all, are led to the next ones."""


class Manifests:
    """The handlers of `…/manifests/…`, `…/tags/list`, `…/referrers/…` and `_catalog`."""

    def __init__(self, backend: Backend, work: Work) -> None:
        self._backend = backend
        self._work = work
        self._referrers = Referrers(backend)
        self._changing_referrers = asyncio.Lock()

    async def get(self, _request: web.BaseRequest, repository: str, target: str) -> web.StreamResponse:
        """Answer GET and HEAD of a manifest."""
        if not _is_target(target):
            raise Refusal(404, "MANIFEST_UNKNOWN", "no such manifest")
        descriptor, data = await self._work.long(lambda: self._backend.manifest(repository, target))
        headers = {"Docker-Content-Digest": descriptor.digest, "Content-Type": descriptor.media_type}
        return web.Response(body=data, headers=headers)

    async def put(self, request: web.BaseRequest, repository: str, target: str) -> web.StreamResponse:
        """Answer PUT of a manifest."""
        if not _is_target(target):
            raise Refusal(400, "TAG_INVALID", "not a tag or a sha256 digest")
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        data = await _body(request)
        digest = await self._work.quick(lambda: oci.sha256(data))
        if ":" in target and target != digest:
            raise Refusal(400, "DIGEST_INVALID", f"the manifest is {digest}")
        subject = _subject(data, media_type)
        headers = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest}
        descriptor = await self._work.long(lambda: self._put(repository, target, media_type, data))
        if subject is not None:
            async with self._changing_referrers:
                await self._work.long(lambda: self._referrers.add(repository, subject, descriptor, data))
            headers["OCI-Subject"] = subject
        return web.Response(status=201, headers=headers)

    def _put(self, repository: str, target: str, media_type: str, data: bytes) -> Descriptor:
        try:
            return self._backend.put_manifest(repository, target, media_type, data)
        except (UnknownMediaType, Corrupt) as error:
            raise Refusal(400, "MANIFEST_INVALID", error.what) from error
        except (Invalid, NotFound) as error:
            raise Refusal(404, "MANIFEST_BLOB_UNKNOWN", error.what) from error

    async def delete(self, _request: web.BaseRequest, repository: str, target: str) -> web.StreamResponse:
        """Answer DELETE of a tag, or of a manifest with all its tags."""
        if not _is_target(target):
            raise Refusal(404, "MANIFEST_UNKNOWN", "no such manifest")
        if ":" in target:
            async with self._changing_referrers:
                await self._work.long(lambda: self._delete(repository, target))
        else:
            await self._work.quick(lambda: self._backend.delete_tag(repository, target))
        return web.Response(status=202)

    def _delete(self, repository: str, digest: str) -> None:
        _, data = self._backend.manifest(repository, digest)
        self._backend.delete_manifest(repository, digest)
        subject = subject_of(data)
        if subject is not None:
            self._referrers.remove(repository, subject, digest)

    async def tags(self, request: web.BaseRequest, repository: str, _item: str) -> web.StreamResponse:
        """Answer GET of a repository's tags, in order, a page at a time if asked for."""
        after, count = _asked(request)
        names = await self._work.quick(lambda: self._backend.tags(repository, after, count + 1))
        return _json({"name": repository, "tags": names[:count]}, _more(request, names, count))

    async def catalog(self, request: web.BaseRequest, _repository: str, _item: str) -> web.StreamResponse:
        """Answer GET of the repositories."""
        after, count = _asked(request)
        names = sorted(name for name in await self._work.quick(self._backend.repositories) if name > after)
        return _json({"repositories": names[:count]}, _more(request, names, count))

    async def referrers(self, request: web.BaseRequest, repository: str, digest: str) -> web.StreamResponse:
        """Answer GET of what refers to a manifest, as an index."""
        subject, kind = checked_digest(digest), request.query.get("artifactType")
        index = await self._work.quick(lambda: self._referrers.index(repository, subject, kind))
        headers = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        return web.Response(body=index, headers={"Content-Type": oci.INDEX, **headers})


async def _body(request: web.BaseRequest) -> bytes:
    data = bytearray()
    async for piece in request.content.iter_any():
        data += piece
        if len(data) > oci.MAX_MANIFEST:
            raise Refusal(413, "MANIFEST_INVALID", f"larger than {oci.MAX_MANIFEST} bytes")
    return bytes(data)


def _is_target(text: str) -> bool:
    if ":" not in text:
        return oci.is_tag(text)
    try:
        oci.check_digest(text)
    except Invalid:
        return False
    return True


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


def _subject(data: bytes, media_type: str) -> str | None:
    """Return the digest of the manifest's subject, if it has one; a refusal if it is no manifest."""
    try:
        stated = oci.decode(data, _Kind, "").media_type
        if not media_type or (stated and stated != media_type):
            raise Refusal(400, "MANIFEST_INVALID", "Content-Type and mediaType must name the same type")
        return subject_of(data)
    except Corrupt as error:
        raise Refusal(400, "MANIFEST_INVALID", error.what) from error


def _asked(request: web.BaseRequest) -> tuple[str, int]:
    """Return the name after which names are wanted, and how many, which is never more than `_PAGE`."""
    query = request.query
    count = query.get("n", str(_PAGE))
    if not (count.isascii() and count.isdecimal() and len(count) <= 9):  # noqa: PLR2004  digits
        raise Refusal(400, "PAGINATION_NUMBER_INVALID", "n is not a number")
    return query.get("last", ""), min(int(count), _PAGE)


def _more(request: web.BaseRequest, names: list[str], count: int) -> dict[str, str]:
    """Return the header that leads to the names after the first `count`, if there are more."""
    if not 0 < count < len(names):
        return {}
    follow = urlencode({"n": count, "last": names[count - 1]})
    return {"Link": f'<{request.path}?{follow}>; rel="next"'}


def _json(value: object, headers: dict[str, str]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=headers)
