"""References: what is accepted, what is written back, and how the rest is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway.errors import Invalid
from shipway.references import (
    BUCKET_OPTIONS,
    BucketReference,
    FileReference,
    Reference,
    RegistryReference,
    is_loopback,
    without_digest,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/acme/tool:1.4", RegistryReference("ghcr.io", "acme/tool", tag="1.4")),
        ("oci://localhost:5000", RegistryReference("localhost:5000", "shipway", insecure=True)),
        ("oci://127.0.0.1:5000/a", RegistryReference("127.0.0.1:5000", "a", insecure=True)),
        ("oci://[::1]:5000/a:b", RegistryReference("[::1]:5000", "a", tag="b", insecure=True)),
        ("oci+http://cache.example/a", RegistryReference("cache.example", "a", insecure=True)),
        (f"oci://r.example/a:t@{DIGEST}", RegistryReference("r.example", "a", tag="t", digest=DIGEST)),
        ("oci://r.example/:t", RegistryReference("r.example", "shipway", tag="t")),
        ("s3://bucket", BucketReference("s3", "bucket")),
        ("s3://bucket/a/b/#deps", BucketReference("s3", "bucket", "a/b", tag="deps")),
        (f"gs://bucket/a#@{DIGEST}", BucketReference("gs", "bucket", "a", digest=DIGEST)),
        (f"az://box/a#t@{DIGEST}", BucketReference("az", "box", "a", tag="t", digest=DIGEST)),
        (
            "s3://bucket/a?region=eu-west-1&endpoint_url=http://127.0.0.1:9000&use_path_style=true#t",
            BucketReference(
                "s3",
                "bucket",
                "a",
                (("region", "eu-west-1"), ("endpoint_url", "http://127.0.0.1:9000"), ("use_path_style", "true")),
                tag="t",
            ),
        ),
        ("file:///var/cache#t", BucketReference("file", "/var/cache", tag="t")),
        ("file:///with%20space/%23", BucketReference("file", "/with space/#")),
        ("oci-layout:///dir", FileReference("oci-layout", "/dir")),
        ("oci-layout:///dir/:t", FileReference("oci-layout", "/dir", tag="t")),
        ("oci-layout:///a:b/c:t", FileReference("oci-layout", "/a:b/c", tag="t")),
        ("oci-layout:///a%3Ab%40c%25", FileReference("oci-layout", "/a:b@c%")),
        (f"oci-archive:///f.tar@{DIGEST}", FileReference("oci-archive", "/f.tar", digest=DIGEST)),
        ("docker-archive:///f.tar:1.0", FileReference("docker-archive", "/f.tar", tag="1.0")),
    ],
)
def test_a_reference_is_read_and_written_back(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a reference"),
        ("ghcr.io/acme/tool", "not a reference"),
        ("http://ghcr.io/a", "not a reference"),
        ("https://user:secret@ghcr.io/a", "not a reference"),
        ("oci://", "not a host"),
        ("oci:///a", "not a host"),
        ("oci://host/UPPER", "not a repository"),
        ("oci://host/a//b", "not a repository"),
        ("oci://host/../b", "not a repository"),
        ("oci://host/a:", "not a tag"),
        ("oci://host/a:tag with space", "not a tag"),
        ("oci://host/a@sha256:12", "not a sha256 digest"),
        ("oci://host/a@", "not a sha256 digest"),
        ("oci://user:secret@host/a", "no user or password"),
        ("oci://user:sec/ret-secret@host/a", "no user or password"),
        ("oci://host/x:1?password=secret", "no options"),
        ("oci+http://host?password=secret", "no options"),
        ("oci://host/x:1#secret", "no options"),
        ("ghcr.io/a?password=secret", "not a reference"),
        ("user:secret@ghcr.io/a", "not a reference"),
        ("https://ghcr.io/a?password=secret", "not a reference"),
        ("oci://ho st/a", "not a host"),
        ("oci://host:port/a", "not a host"),
        ("oci://host/a:" + "t" * 129, "not a tag"),
        ("s3://", "not a bucket"),
        ("s3://../x", "not a bucket"),
        ("s3://key:secret@bucket/x", "no credentials"),
        ("s3://bucket/a/../b", "not a prefix"),
        ("s3://bucket/a//b", "not a prefix"),
        ("s3://bucket/a%00", "zero byte"),
        ("s3://bucket/a%ff", "printable"),
        ("s3://bucket/a#", "no name after #"),
        ("s3://bucket/a#b/c", "not a tag"),
        ("s3://bucket/a#b@sha256:1", "not a sha256 digest"),
        ("s3://bucket/a?secret_access_key=secret", "no option of s3://: 'secret_access_key'"),
        ("s3://bucket/a?region=", "region has no value"),
        ("s3://bucket/a?region=a&region=b", "region stands there twice"),
        ("s3://bucket/a?use_path_style=maybe", "use_path_style is neither"),
        ("s3://bucket/a?retry_max_attempts=0", "retry_max_attempts is no number"),
        ("s3://bucket/a?endpoint_url=http://a:secret@host", "no credentials"),
        ("gs://bucket?region=a", "no option of gs://: 'region'"),
        ("file://relative/dir", "not an absolute path"),
        ("file:///a/../b", "not a plain path"),
        ("oci-layout://dir:tag", "not an absolute path"),
        ("oci-layout:///a//b", "not a plain path"),
        ("oci-layout:///dir:a b", "not a tag"),
        ("oci-layout:///dir@x", "not a sha256 digest"),
        ("docker-archive:///", "not an absolute path"),
    ],
)
def test_what_is_no_reference_is_invalid_and_the_wrong_part_is_named(text: str, said: str) -> None:
    with pytest.raises(Invalid) as error:
        Reference.parse(text)
    assert said in str(error.value)
    assert "secret" not in str(error.value).replace("secret_access_key", "")
    assert "\n" not in str(error.value)


def test_a_reference_of_another_kind_than_is_needed_is_invalid() -> None:
    with pytest.raises(Invalid, match="oci://host"):
        RegistryReference.parse("s3://bucket")


TAGS = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.none() | st.just(DIGEST)
PRINTABLE = st.text(st.characters().filter(lambda one: one.isprintable() and one != "/"), min_size=1)
NAMES = PRINTABLE.filter(lambda part: part not in (".", ".."))
RAW_NAMES = (
    st.binary(min_size=1)
    .map(lambda name: name.decode("utf-8", "surrogateescape"))
    .filter(lambda part: part not in (".", "..") and "/" not in part and "\0" not in part)
)
REFERENCES = st.one_of(
    st.builds(
        RegistryReference,
        st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]{2})?(:[0-9]{1,5})?", fullmatch=True),
        st.from_regex(r"[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}", fullmatch=True),
        st.booleans(),
        tag=TAGS,
        digest=DIGESTS,
    ).filter(lambda reference: reference.insecure or not is_loopback(reference.host)),
    st.builds(
        lambda scheme, bucket, parts, value, tag, digest: BucketReference(
            scheme, bucket, "/".join(parts), ((BUCKET_OPTIONS[scheme][-1], value),), tag=tag, digest=digest
        ),
        st.sampled_from(["s3", "gs", "az"]),
        st.from_regex(r"[a-z0-9][a-z0-9.-]{0,9}[a-z0-9]", fullmatch=True).filter(lambda name: ".." not in name),
        st.lists(NAMES),
        PRINTABLE,
        TAGS,
        DIGESTS,
    ),
    st.builds(
        lambda parts, tag, digest: BucketReference("file", "/" + "/".join(parts), tag=tag, digest=digest),
        st.lists(NAMES, min_size=1),
        TAGS,
        DIGESTS,
    ),
    st.builds(
        lambda scheme, parts, tag, digest: FileReference(scheme, "/" + "/".join(parts), tag=tag, digest=digest),
        st.sampled_from(["oci-layout", "oci-archive", "docker-archive"]),
        st.lists(RAW_NAMES, min_size=1),
        TAGS,
        DIGESTS,
    ),
)


@given(REFERENCES)
def test_every_reference_is_written_as_what_reads_as_the_same(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.place) == reference.at()
    assert without_digest(str(reference)) == str(reference.at(tag=reference.tag))


@given(st.text())
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    for prefix in ("", "oci://", "oci://host/", "s3://", "s3://b/", "file:///", "oci-layout:///", "s3://b?region="):
        try:
            reference = Reference.parse(prefix + text)
        except Invalid:
            continue
        assert Reference.parse(str(reference)) == reference


def test_the_target_is_the_digest_then_the_tag_then_latest() -> None:
    assert RegistryReference("h", tag="t", digest=DIGEST).target == DIGEST
    assert BucketReference("s3", "b", tag="t").target == "t"
    assert FileReference("oci-layout", "/d").target == "latest"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.8.8.8:80", "[::1]", "[::1]:80"])
def test_loopback_hosts_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "10.0.0.1", "127.0.0.1.example.com", "[::2]:80"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
