"""Manifests, tags, repositories and referrers over HTTP."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.contents import blob, manifest_of
from support.http import Answer, Client

from shipway import oci

MANIFESTS = "/v2/a/b/manifests/"
EMPTY = blob(b"{}", "application/vnd.oci.empty.v1+json")


def image(client: Client, layer: bytes = b"layer", repository: str = "a/b") -> bytes:
    """Upload an image's blobs and return its manifest."""
    for data in (b"{}", layer):
        client.put_blob(data, repository)
    return manifest_of(blob(b"{}", oci.CONFIG), blob(layer))[1]


def put(client: Client, target: str, data: bytes, repository: str = "a/b", kind: str = oci.MANIFEST) -> Answer:
    return client.ask("PUT", f"/v2/{repository}/manifests/{target}", data, content_type=kind)


def tagged(client: Client, *tags: str, repository: str = "a/b") -> bytes:
    data = image(client, repository=repository)
    for tag in tags:
        assert put(client, tag, data, repository).status == 201
    return data


def referrer(client: Client, subject: bytes, kind: str, **extra: Any) -> bytes:
    """Return an artifact manifest that refers to another manifest."""
    client.put_blob(b"{}")
    parts = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": EMPTY.media_type, "digest": EMPTY.digest, "size": EMPTY.size},
        "layers": [],
        "subject": {"mediaType": oci.MANIFEST, "digest": oci.sha256(subject), "size": len(subject)},
    }
    return json.dumps(parts | extra).encode()


# Manifests


def test_a_manifest_comes_back_by_tag_and_digest(client: Client) -> None:
    data = image(client)
    digest = oci.sha256(data)
    answer = put(client, "v1", data)
    assert answer.status == 201
    assert answer.headers["docker-content-digest"] == digest
    assert answer.headers["location"] == MANIFESTS + digest
    for target in ("v1", digest):
        got, head = client.ask("GET", MANIFESTS + target), client.ask("HEAD", MANIFESTS + target)
        assert (got.status, got.body, head.status, head.body) == (200, data, 200, b"")
        for one in (got, head):
            assert one.headers["content-type"] == oci.MANIFEST
            assert one.headers["docker-content-digest"] == digest
            assert one.headers["content-length"] == str(len(data))


@pytest.mark.parametrize("target", ["absent", oci.sha256(b"absent"), ".not-a-tag", "sha256:1", "x" * 129])
def test_a_missing_manifest_is_unknown(client: Client, target: str) -> None:
    tagged(client, "v1")
    assert client.ask("GET", MANIFESTS + target).refusal == (404, "MANIFEST_UNKNOWN")
    assert client.ask("HEAD", MANIFESTS + target).status == 404
    assert client.ask("DELETE", MANIFESTS + target).refusal == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("target", [".not-a-tag", "sha256:1", "sha512:" + "0" * 128, "x" * 129, "a%20b"])
def test_a_manifest_is_not_stored_under_what_is_no_tag(client: Client, target: str) -> None:
    assert put(client, target, image(client)).refusal == (400, "TAG_INVALID")


def test_a_manifest_is_not_stored_under_another_digest(client: Client) -> None:
    assert put(client, oci.sha256(b"other"), image(client)).refusal == (400, "DIGEST_INVALID")


def test_a_manifest_of_missing_blobs_is_refused(client: Client) -> None:
    data = manifest_of(blob(b"{}", oci.CONFIG), blob(b"never sent"))[1]
    assert put(client, "v1", data).refusal == (404, "MANIFEST_BLOB_UNKNOWN")
    assert client.ask("GET", MANIFESTS + "v1").refusal == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"subject":{"digest":"x"}}', b'{"subject":1}'),
        b'{"mediaType":"' + oci.INDEX.encode() + b'"}',
    ],
)
def test_what_is_no_manifest_is_refused(client: Client, data: bytes) -> None:
    assert put(client, "v1", data).refusal == (400, "MANIFEST_INVALID")


def test_a_manifest_needs_a_type(client: Client) -> None:
    data = image(client)
    assert client.ask("PUT", MANIFESTS + "v1", data, content_type="").refusal == (400, "MANIFEST_INVALID")


def test_a_manifest_may_only_be_so_long(client: Client) -> None:
    data = b'{"mediaType":"' + oci.MANIFEST.encode() + b'"}' + b" " * oci.MAX_MANIFEST
    assert put(client, "v1", data).refusal == (413, "MANIFEST_INVALID")


def test_a_tag_is_deleted_alone(client: Client) -> None:
    data = tagged(client, "one", "two")
    assert client.ask("DELETE", MANIFESTS + "one").status == 202
    assert client.ask("GET", MANIFESTS + "one").status == 404
    assert client.ask("GET", MANIFESTS + "two").body == data


def test_a_manifest_is_deleted_with_its_tags(client: Client) -> None:
    digest = oci.sha256(tagged(client, "one", "two"))
    assert client.ask("DELETE", MANIFESTS + digest).status == 202
    for target in ("one", "two", digest):
        assert client.ask("GET", MANIFESTS + target).status == 404


# Lists


def follow(client: Client, path: str, key: str) -> list[list[str]]:
    """Return all pages from `path` on."""
    pages = []
    while path:
        answer = client.ask("GET", path)
        assert answer.status == 200
        pages.append(answer.json[key])
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        path = link[1] if link else ""
    return pages


def test_tags_are_listed_in_order(client: Client) -> None:
    tagged(client, "b", "a", "C", "_x", "1")
    answer = client.ask("GET", "/v2/a/b/tags/list")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json == {"name": "a/b", "tags": ["1", "C", "_x", "a", "b"]}


def test_tags_are_listed_in_pages(client: Client) -> None:
    tagged(client, *"abcde")
    assert follow(client, "/v2/a/b/tags/list?n=2", "tags") == [["a", "b"], ["c", "d"], ["e"]]
    assert follow(client, "/v2/a/b/tags/list?n=5", "tags") == [list("abcde")]
    assert follow(client, "/v2/a/b/tags/list?n=0", "tags") == [[]]
    assert follow(client, "/v2/a/b/tags/list?last=c", "tags") == [["d", "e"]]
    assert follow(client, "/v2/a/b/tags/list?last=zzz&n=1", "tags") == [[]]


@pytest.mark.parametrize("number", ["-1", "x", "", "1" * 30, "1.5"])
def test_a_page_has_a_number_of_tags(client: Client, number: str) -> None:
    tagged(client, "a")
    assert client.ask("GET", f"/v2/a/b/tags/list?n={number}").refusal == (400, "PAGINATION_NUMBER_INVALID")


def test_tags_of_a_missing_repository_are_unknown(client: Client) -> None:
    assert client.ask("GET", "/v2/no/such/tags/list").refusal == (404, "NAME_UNKNOWN")


def test_repositories_are_listed(client: Client) -> None:
    for repository in ("b", "a/c", "a"):
        tagged(client, "x", repository=repository)
    assert follow(client, "/v2/_catalog", "repositories") == [["a", "a/c", "b"]]
    assert follow(client, "/v2/_catalog?n=2", "repositories") == [["a", "a/c"], ["b"]]


# Referrers


def referrers(client: Client, subject: bytes, query: str = "") -> tuple[Answer, list[dict[str, Any]]]:
    answer = client.ask("GET", f"/v2/a/b/referrers/{oci.sha256(subject)}{query}")
    assert answer.status == 200
    assert answer.headers["content-type"] == oci.INDEX
    assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, oci.INDEX)
    return answer, answer.json["manifests"]


def test_nothing_refers_to_what_is_not_referred_to(client: Client) -> None:
    assert referrers(client, b"unheard of")[1] == []


def test_what_refers_to_a_manifest_is_listed(client: Client) -> None:
    subject = tagged(client, "v1")
    first = referrer(client, subject, "application/x.first", annotations={"key": "value"})
    second = referrer(client, subject, "application/x.second")
    for data in (first, second, first):
        answer = put(client, oci.sha256(data), data)
        assert (answer.status, answer.headers["oci-subject"]) == (201, oci.sha256(subject))
    found = {entry["digest"]: entry for entry in referrers(client, subject)[1]}
    assert len(referrers(client, subject)[1]) == 2
    assert found[oci.sha256(first)] == {
        "mediaType": oci.MANIFEST,
        "digest": oci.sha256(first),
        "size": len(first),
        "artifactType": "application/x.first",
        "annotations": {"key": "value"},
    }
    assert found[oci.sha256(second)]["artifactType"] == "application/x.second"


def test_referrers_may_be_asked_for_by_type(client: Client) -> None:
    subject = tagged(client, "v1")
    for kind in ("application/x.first", "application/x.second"):
        data = referrer(client, subject, kind)
        put(client, oci.sha256(data), data)
    answer, found = referrers(client, subject, "?artifactType=application/x.second")
    assert [entry["artifactType"] for entry in found] == ["application/x.second"]
    assert answer.headers["oci-filters-applied"] == "artifactType"


def test_an_image_that_refers_is_of_its_configs_type(client: Client) -> None:
    subject = tagged(client, "v1")
    data = referrer(client, subject, "")
    put(client, oci.sha256(data), data)
    assert referrers(client, subject)[1][0]["artifactType"] == EMPTY.media_type


def test_a_deleted_referrer_refers_no_more(client: Client) -> None:
    subject = tagged(client, "v1")
    datas = [referrer(client, subject, f"application/x.{number}") for number in range(2)]
    for data in datas:
        put(client, oci.sha256(data), data)
    for left in (1, 0):
        assert client.ask("DELETE", MANIFESTS + oci.sha256(datas[left])).status == 202
        assert len(referrers(client, subject)[1]) == left


def test_a_subject_need_not_be_here_yet(client: Client) -> None:
    subject = image(client)
    data = referrer(client, subject, "application/x.early")
    assert put(client, "early", data).status == 201
    assert [entry["digest"] for entry in referrers(client, subject)[1]] == [oci.sha256(data)]


def test_referrers_of_what_is_no_digest_are_refused(client: Client) -> None:
    assert client.ask("GET", "/v2/a/b/referrers/v1").refusal == (400, "DIGEST_INVALID")
