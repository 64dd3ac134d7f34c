"""What refers to a manifest (distribution-spec, Listing Referrers).

Kept as the specification's *referrers tag*: an index under the tag `sha256-<hex of the subject>`. So a backend
needs to know nothing of referrers, and clients that keep such tags themselves agree with the server.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shipway import oci
from shipway.errors import Corrupt, Invalid, NotFound
from shipway.oci import Descriptor
from shipway.server.backend import Backend

_Entry = dict[str, Any]


class _Subject(msgspec.Struct, frozen=True):
    digest: str


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


class _Referrer(msgspec.Struct, frozen=True, rename="camel"):
    """What of a manifest shows in a list of referrers."""

    artifact_type: str = ""
    config: _Config = _Config()
    subject: _Subject | None = None
    annotations: dict[str, str] = {}


class _List(msgspec.Struct, frozen=True):
    manifests: list[_Entry] = []


class Referrers:
    """Keeps the referrers tags of a backend. Changes must not run at the same time."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def index(self, repository: str, subject: str, artifact_type: str | None = None) -> bytes:
        """Return the index of what refers to `subject`, of one type if asked for; empty if nothing does."""
        entries = self._entries(repository, subject)
        if artifact_type:
            entries = [entry for entry in entries if entry.get("artifactType") == artifact_type]
        return _encode(entries)

    def add(self, repository: str, subject: str, descriptor: Descriptor, data: bytes) -> None:
        """Remember that the manifest `data` refers to `subject`."""
        referrer = oci.decode(data, _Referrer, descriptor.digest)
        entry: _Entry = {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
            "artifactType": referrer.artifact_type or referrer.config.media_type,
        }
        if referrer.annotations:
            entry["annotations"] = referrer.annotations
        others = [one for one in self._entries(repository, subject) if one.get("digest") != descriptor.digest]
        self._store(repository, subject, [*others, entry])

    def remove(self, repository: str, subject: str, digest: str) -> None:
        """Forget that the manifest `digest` referred to `subject`."""
        before = self._entries(repository, subject)
        after = [entry for entry in before if entry.get("digest") != digest]
        if not after and before:
            self._backend.delete_tag(repository, _tag(subject))
        elif len(after) < len(before):
            self._store(repository, subject, after)

    def _entries(self, repository: str, subject: str) -> list[_Entry]:
        try:
            _, data = self._backend.manifest(repository, _tag(subject))
        except NotFound:
            return []
        return oci.decode(data, _List, _tag(subject)).manifests

    def _store(self, repository: str, subject: str, entries: list[_Entry]) -> None:
        self._backend.put_manifest(repository, _tag(subject), oci.INDEX, _encode(entries))


def subject_of(data: bytes) -> str | None:
    """Return the digest of a manifest's subject, None if it has none; `Corrupt` if it is not a manifest."""
    subject = oci.decode(data, _Referrer, "").subject
    if subject is None:
        return None
    try:
        return oci.check_digest(subject.digest)
    except Invalid as error:
        raise Corrupt(f"the subject is {error.what}") from error


def _tag(digest: str) -> str:
    return digest.replace(":", "-")


def _encode(entries: list[_Entry]) -> bytes:
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries})
