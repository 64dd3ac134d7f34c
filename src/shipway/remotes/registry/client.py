"""A repository of an OCI registry as a remote (distribution-spec 1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO
from urllib.parse import quote

import msgspec

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound, ShipwayError, Unavailable
from shipway.oci import Descriptor
from shipway.references import Reference, RegistryReference
from shipway.refs import Traffic
from shipway.remotes.checks import checked_target
from shipway.remotes.contract import Expected, Unfinished
from shipway.remotes.registry.auth import Scope
from shipway.remotes.registry.credentials import Credentials, find_credentials
from shipway.remotes.registry.download import download
from shipway.remotes.registry.session import Session
from shipway.remotes.registry.transport import Limits, Origin, Response, resolve
from shipway.remotes.registry.trust import Trust
from shipway.remotes.registry.upload import CHUNK, Beginning, Upload

_ACCEPT = ", ".join((*oci.MANIFEST_TYPES, *oci.INDEX_TYPES))
_MAX_TAGS = 16 << 20
_TAG_PAGE = 1000
#: Docker Hub's registry is not at the host that its references name.
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_REGISTRY = "registry-1.docker.io"


class _TagList(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] | None = None


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    """What a manifest says it is."""

    media_type: str = ""


class RegistryRemote:
    """One repository of an OCI registry; implements `shipway.remotes.contract.Remote`. Thread-safe."""

    def __init__(
        self,
        reference: RegistryReference,
        *,
        credentials: Credentials | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        trust: Trust = Trust(),  # noqa: B008  frozen
        chunk: int = CHUNK,
        unfinished: Unfinished | None = None,
    ) -> None:
        """Speak to the registry of `reference`; nothing is sent yet.

        Without `credentials` they are looked up when the registry asks for some. `trust` is about its TLS. Blobs above
        `chunk` bytes are uploaded in chunks of that size, and gone on with if `unfinished` knows of a beginning.
        """
        host, repository = reference.host, reference.repository
        if host == _DOCKER_HUB:
            host = _DOCKER_HUB_REGISTRY
            repository = repository if "/" in repository else f"library/{repository}"
        self.name = str(reference.at())
        self.repository = repository
        """Its name at the registry; Docker Hub's have a namespace that references leave out."""
        self._chunk = chunk
        self._unfinished = unfinished
        self._host = reference.host
        self._session = Session(
            f"{'http' if reference.insecure else 'https'}://{host}",
            reference.host,
            lambda: credentials or find_credentials(reference.host, repository),
            limits,
            trust,
        )
        self._pull: Scope = frozenset({f"repository:{repository}:pull"})
        self._push: Scope = frozenset({f"repository:{repository}:pull,push"})

    @property
    def traffic(self) -> Traffic:
        """All that this remote has moved so far, authentication and redirects included."""
        return self._session.traffic.total

    def check(self) -> None:
        """Ask whether the registry is there and lets us in (distribution-spec, Determining Support)."""
        base = self._url("x", "y").partition("/v2/")[0]
        with self._session.request("GET", f"{base}/v2/", scope=frozenset(), accept=(200,), where=self._host):
            pass

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, and its descriptor."""
        where = self._where(target)
        with self._session.request(
            "GET",
            self._url("manifests", checked_target(target)),
            scope=self._pull,
            accept=(200,),
            where=where,
            headers={"accept": _ACCEPT},
        ) as response:
            data = response.body(oci.MAX_MANIFEST)
            digest = oci.sha256(data)
            stated = response.headers.get("docker-content-digest", "")
            if stated.startswith("sha256:"):
                oci.check_match(digest, stated, where)
            if ":" in target:
                oci.check_match(digest, target, where)
            return Descriptor(media_type=_media_type(response, data, where), digest=digest, size=len(data)), data

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Store a manifest under its digest, and under `tag`; `Invalid` if that is to be conditional."""
        where = self._where(tag or descriptor.digest)
        if expected is not None:
            raise Invalid(
                "a registry writes no tag on a condition", where=where, todo="use a bucket or an OCI layout for that"
            )
        oci.verify(data, descriptor.digest, descriptor.size, where)
        with self._session.request(
            "PUT",
            self._url("manifests", checked_target(tag or descriptor.digest)),
            scope=self._push,
            accept=(201,),
            where=where,
            headers={"content-type": descriptor.media_type, "content-length": str(len(data))},
            body=data,
        ) as response:
            stated = response.headers.get("docker-content-digest", "")
            if stated.startswith("sha256:"):
                oci.check_match(stated, descriptor.digest, where)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""
        with self._session.request(
            "HEAD",
            self._blob_url(descriptor),
            scope=self._pull,
            accept=(200, 404),
            where=self._where(descriptor.digest),
        ) as response:
            return response.status == 200 and response.length in (None, descriptor.size)  # noqa: PLR2004  HTTP's number

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """Open a stream over `length` bytes of a blob from `offset` on (all of it by default).

        A blob that is not here is read from the addresses that its descriptor names, if any, without credentials.
        """
        with ExitStack() as stack:
            yield self._open_blob(descriptor, offset, length, stack)

    def _open_blob(self, descriptor: Descriptor, offset: int, length: int | None, stack: ExitStack) -> Iterator[bytes]:
        where = self._where(descriptor.digest)
        own = self._blob_url(descriptor)
        failure: ShipwayError | None = None
        for url in (own, *descriptor.urls):
            try:
                return stack.enter_context(
                    download(
                        self._session,
                        resolve(own, url),
                        scope=self._pull,
                        where=where if url == own else f"{where} at {Origin.of(url).host}",
                        size=descriptor.size,
                        offset=offset,
                        length=length,
                    )
                )
            except (NotFound, Unavailable) as error:
                if url == own and not isinstance(error, NotFound):
                    raise
                failure = error
        assert failure is not None
        raise failure

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Upload a blob; whether it is there already is for the caller to ask.

        `mount_from` names another remote that may have the blob: if that is a repository of this registry it is
        taken from there and nothing is sent, else it is uploaded.
        """
        scope, mount = self._push, ""
        source = None if mount_from is None else Reference.parse(mount_from)
        if isinstance(source, RegistryReference) and source.host == self._host and source.place != self.name:
            scope = scope | {f"repository:{source.repository}:pull"}
            blob = quote(oci.check_digest(descriptor.digest), safe="")
            mount = f"?mount={blob}&from={quote(source.repository, safe='')}"
        Upload(
            self._session,
            self._url("blobs", "uploads/"),
            scope=scope,
            where=self._where(descriptor.digest),
            descriptor=descriptor,
            open_blob=open_blob,
            sent=sent,
            chunk=self._chunk,
            beginning=Beginning(self._unfinished, self.name, descriptor.digest),
        ).run(mount)

    def tags(self) -> Iterator[str]:
        """Yield the repository's tags, a page at a time."""
        url: str | None = self._url("tags", f"list?n={_TAG_PAGE}")
        seen: set[str] = set()
        while url is not None:
            if url in seen:
                raise Unavailable("its pages of tags go round in a circle", where=self.name)
            seen.add(url)
            with self._session.request("GET", url, scope=self._pull, accept=(200,), where=self.name) as response:
                page = oci.decode(response.body(_MAX_TAGS), _TagList, self.name)
                url = self._next_page(response)
            for tag in page.tags or ():
                if not oci.is_tag(tag):
                    raise Corrupt(f"lists a tag that is not one: {tag[:100]!r}", where=self.name)
                yield tag

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def _next_page(self, response: Response) -> str | None:
        links = response.headers.get("link", "")
        if 'rel="next"' not in links:
            return None
        target = resolve(response.url, links.partition("<")[2].partition(">")[0])
        if not self._session.is_here(target):
            raise Unavailable("its next page of tags is at another host", where=self.name)
        return target

    def _url(self, kind: str, rest: str) -> str:
        return self._session.url(f"{self.repository}/{kind}/{rest}")

    def _blob_url(self, descriptor: Descriptor) -> str:
        return self._url("blobs", oci.check_digest(descriptor.digest, self.name))

    def _where(self, target: str) -> str:
        return f"{self.name}{'@' if ':' in target else ':'}{target}"


def _media_type(response: Response, data: bytes, where: str) -> str:
    """Return what kind of manifest this is; header and content must not tell two different stories."""
    stated = response.headers.get("content-type", "").partition(";")[0].strip()
    own = oci.decode(data, _Kind, where).media_type
    known = (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES)
    if own and stated in known and own != stated:
        raise Corrupt(f"served as {stated} but says it is {own[:100]!r}", where=where)
    return own or stated
