"""References, digests and documents: what is accepted, and how the rest is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, Invalid, ShipwayError, SizeMismatch, Truncated
from shipway.oci import Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/acme/tool:1.4", Reference("ghcr.io", "acme/tool", "1.4")),
        ("oci://localhost:5000", Reference("localhost:5000", "shipway", insecure=True)),
        ("oci://127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a", insecure=True)),
        ("oci://[::1]:5000/a:b", Reference("[::1]:5000", "a", "b", insecure=True)),
        ("oci+http://cache.example/a", Reference("cache.example", "a", insecure=True)),
        (f"oci://r.example/a:t@{DIGEST}", Reference("r.example", "a", "t", DIGEST)),
        ("oci://r.example/:t", Reference("r.example", "shipway", "t")),
    ],
)
def test_a_reference_is_read_and_written_back(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ghcr.io/acme/tool",
        "http://ghcr.io/a",
        "oci://",
        "oci:///a",
        "oci://host/UPPER",
        "oci://host/a//b",
        "oci://host/../b",
        "oci://host/a:",
        "oci://host/a:tag with space",
        "oci://host/a@sha256:12",
        "oci://host/a@",
        "oci://user:secret@host/a",
        "oci://ho st/a",
        "oci://host:port/a",
        "oci://host/a:" + "t" * 129,
    ],
)
def test_what_is_no_reference_is_invalid(text: str) -> None:
    with pytest.raises(Invalid) as error:
        Reference.parse(text)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    for prefix in ("", "oci://", "oci://host/"):
        try:
            reference = Reference.parse(prefix + text)
        except Invalid:
            continue
        assert Reference.parse(str(reference)) == reference


def test_the_target_is_the_digest_then_the_tag_then_latest() -> None:
    assert Reference("h", tag="t", digest=DIGEST).target == DIGEST
    assert Reference("h", tag="t").target == "t"
    assert Reference("h").target == "latest"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.8.8.8:80", "[::1]", "[::1]:80"])
def test_loopback_hosts_are_known(host: str) -> None:
    assert oci.is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "10.0.0.1", "127.0.0.1.example.com", "[::2]:80"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not oci.is_loopback(host)


def test_chain_ids_follow_the_image_specification() -> None:
    one, two = oci.sha256(b"1"), oci.sha256(b"2")
    assert oci.chain_ids([one, two]) == [one, "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()]


def test_bytes_are_compared_with_their_descriptor() -> None:
    oci.verify(b"data", oci.sha256(b"data"), 4, "x")
    with pytest.raises(Truncated, match="x: ended after 4 of 5"):
        oci.verify(b"data", oci.sha256(b"data"), 5, "x")
    with pytest.raises(SizeMismatch, match="x: "):
        oci.verify(b"data", oci.sha256(b"data"), 3, "x")
    with pytest.raises(DigestMismatch, match="x: "):
        oci.verify(b"data", oci.sha256(b"other"), 4, "x")


@given(st.binary())
def test_any_bytes_are_a_manifest_or_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="here"):
        oci.decode(data, oci.Manifest, "here")


def test_equal_documents_have_equal_bytes() -> None:
    config = oci.ImageConfig(architecture="amd64", os="linux", rootfs=oci.RootFS(diff_ids=(DIGEST,)))
    assert oci.encode(config) == oci.encode(oci.decode(oci.encode(config), oci.ImageConfig, "x"))


def test_a_key_becomes_a_valid_tag() -> None:
    for key in ("deps", b"\xff\x00", "ключ", ""):
        assert oci.is_tag(oci.key_tag(key))
    assert oci.key_tag("a") == oci.key_tag(b"a") != oci.key_tag("b")


def test_a_message_is_one_line_with_where_what_and_what_to_do() -> None:
    assert str(ShipwayError("is\nodd", where="here", todo="mend it")) == "here: is odd; mend it"
    assert str(ShipwayError("odd")) == "odd"
