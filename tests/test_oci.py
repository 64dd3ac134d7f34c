"""Digests and documents: what is accepted, and how the rest is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway import oci
from shipway.errors import Corrupt, DigestMismatch, ShipwayError, SizeMismatch, Truncated

DIGEST = "sha256:" + "0123456789abcdef" * 4


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
