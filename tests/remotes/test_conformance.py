"""What every remote must do, run against every implementation and every kind of server."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from support.contents import blob, manifest_of, opening, put, put_image, random_bytes, read
from support.places import Place

from shipway import oci
from shipway.errors import (
    Conflict,
    Corrupt,
    DigestMismatch,
    Invalid,
    NotFound,
    RepositoryNotFound,
    SizeMismatch,
    Truncated,
)
from shipway.oci import Descriptor
from shipway.references import Reference
from shipway.refs import Traffic
from shipway.remotes import Remote
from shipway.remotes.contract import Expected

OpenAnother = Callable[[str], Remote]


@pytest.fixture
def open_another(place: Place) -> Iterator[OpenAnother]:
    """Return a function that opens a repository."""
    opened: list[Remote] = []

    def open_it(repository: str) -> Remote:
        opened.append(place.open(repository))
        return opened[-1]

    yield open_it
    for remote in opened:
        remote.close()


@pytest.fixture
def remote(open_another: OpenAnother, repository: str) -> Remote:
    """Return an empty remote."""
    return open_another(repository)


# Manifests and tags


def test_a_manifest_comes_back_as_it_was_stored(remote: Remote) -> None:
    descriptor, data = put_image(remote, b"layer", tag="one")
    assert remote.manifest("one") == (descriptor, data)
    assert remote.manifest(descriptor.digest) == (descriptor, data)


def test_a_manifest_without_a_tag_is_found_by_its_digest_alone(remote: Remote) -> None:
    descriptor, data = put_image(remote, b"layer")
    assert remote.manifest(descriptor.digest) == (descriptor, data)
    with pytest.raises(NotFound):
        remote.manifest("latest")


def test_a_docker_manifest_keeps_its_type(remote: Remote) -> None:
    config = put(remote, b"{}", oci.DOCKER_CONFIG)
    layer = put(remote, b"layer", oci.DOCKER_LAYER_GZIP)
    descriptor, data = manifest_of(config, layer, media_type=oci.DOCKER_MANIFEST)
    remote.put_manifest(descriptor, data, tag="docker")
    assert remote.manifest("docker") == (descriptor, data)


def test_an_index_is_a_manifest_too(remote: Remote) -> None:
    image, _ = put_image(remote, b"layer")
    child = oci.ManifestDescriptor(media_type=image.media_type, digest=image.digest, size=image.size)
    data = oci.encode(oci.Index(schema_version=2, media_type=oci.INDEX, manifests=(child,)))
    remote.put_manifest(blob(data, oci.INDEX), data, tag="index")
    assert remote.manifest("index") == (blob(data, oci.INDEX), data)


def test_a_tag_moves(remote: Remote) -> None:
    put_image(remote, b"old", tag="moving")
    new, _ = put_image(remote, b"new", tag="moving")
    assert remote.manifest("moving")[0] == new
    assert list(remote.tags()) == ["moving"]


def test_all_tags_are_listed(remote: Remote) -> None:
    descriptor, data = put_image(remote, b"layer")
    names = [f"tag-{number:03}" for number in range(120)]
    for name in names:
        remote.put_manifest(descriptor, data, tag=name)
    assert sorted(remote.tags()) == names


def test_what_is_missing_is_not_found(remote: Remote) -> None:
    put_image(remote, b"layer", tag="here")
    for target in ("absent", oci.sha256(b"absent")):
        with pytest.raises(NotFound, match=target):
            remote.manifest(target)


def test_a_missing_repository_is_not_found(remote: Remote) -> None:
    with pytest.raises(NotFound):
        remote.manifest("latest")
    with pytest.raises(RepositoryNotFound, match=re.escape(remote.name)):
        list(remote.tags())


@pytest.mark.parametrize("target", ["", "..", "a/b", "sha256:12", "sha512:" + "0" * 128, "a b", "x" * 129])
def test_a_target_that_is_neither_tag_nor_digest_is_invalid(remote: Remote, target: str) -> None:
    with pytest.raises(Invalid):
        remote.manifest(target)
    assert remote.traffic == Traffic()


def test_a_manifest_of_missing_blobs_is_refused(remote: Remote) -> None:
    config = put(remote, b"{}", oci.CONFIG)
    descriptor, data = manifest_of(config, blob(b"never sent"))
    with pytest.raises(NotFound):
        remote.put_manifest(descriptor, data, tag="broken")
    with pytest.raises(NotFound):
        remote.manifest("broken")


def test_a_manifest_that_is_not_what_its_descriptor_says_is_not_sent(remote: Remote) -> None:
    with pytest.raises(DigestMismatch):
        remote.put_manifest(msgspec.structs.replace(blob(b"{}"), digest=oci.sha256(b"[]")), b"{}", tag="x")
    assert remote.traffic == Traffic()


# Blobs


@pytest.mark.parametrize("size", [1, 65536, (3 << 20) + 17])
def test_a_blob_comes_back_in_pieces(remote: Remote, size: int) -> None:
    data = random_bytes(size)
    descriptor = blob(data)
    assert not remote.has_blob(descriptor)
    put(remote, data)
    assert remote.has_blob(descriptor)
    with remote.read_blob(descriptor) as pieces:
        got = [bytes(piece) for piece in pieces]
    assert b"".join(got) == data
    assert max(map(len, got)) <= 1 << 20


def test_an_empty_blob_is_a_blob(remote: Remote) -> None:
    descriptor = put(remote, b"")
    assert remote.has_blob(descriptor)
    assert read(remote, descriptor) == b""


def test_a_blob_of_another_size_is_not_the_blob(remote: Remote) -> None:
    descriptor = put(remote, b"ten bytes.")
    assert not remote.has_blob(msgspec.structs.replace(descriptor, size=11))


def test_ranges_are_what_they_would_be_in_the_whole(remote: Remote) -> None:
    data = random_bytes(300_000)
    descriptor = put(remote, data)
    dice = random.Random(7)
    ranges = [(0, 1), (0, 300_000), (299_999, 1), (0, 299_999), (1, 299_999), (150_000, 0), (300_000, 0)]
    for _ in range(20):
        offset = dice.randrange(300_000)
        ranges.append((offset, dice.randrange(300_000 - offset)))
    for offset, length in ranges:
        assert read(remote, descriptor, offset, length) == data[offset : offset + length]
    assert read(remote, descriptor, 123_456) == data[123_456:]


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (11, 0), (5, 6), (-1, 3), (3, -1)])
def test_a_range_outside_the_blob_is_invalid(remote: Remote, offset: int, length: int) -> None:
    descriptor = put(remote, b"ten bytes.")
    with pytest.raises(Invalid, match="10"), remote.read_blob(descriptor, offset, length):
        pass


def test_a_missing_blob_is_not_found_before_anything_is_read(remote: Remote) -> None:
    put(remote, b"another")
    with pytest.raises(NotFound), remote.read_blob(blob(b"absent")):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize(("claimed", "error"), [(11, Truncated), (9, SizeMismatch)])
@pytest.mark.parametrize(("offset", "length"), [(0, None), (2, 3), (2, None)])
def test_a_blob_that_is_not_as_long_as_promised_is_corrupt(
    remote: Remote, claimed: int, error: type[Corrupt], offset: int, length: int | None
) -> None:
    descriptor = msgspec.structs.replace(put(remote, b"ten bytes."), size=claimed)
    with pytest.raises(error, match=descriptor.digest):
        read(remote, descriptor, offset, length)


def test_a_blob_with_another_digest_than_promised_is_refused(remote: Remote) -> None:
    wrong = msgspec.structs.replace(blob(b"right"), digest=oci.sha256(b"wrong"))
    with pytest.raises(DigestMismatch, match=wrong.digest):
        remote.put_blob(wrong, opening(b"right"), lambda _size: None)
    assert not remote.has_blob(wrong)


def test_a_blob_that_ends_early_is_not_stored(remote: Remote) -> None:
    descriptor = msgspec.structs.replace(blob(b"ten bytes."), size=12)
    with pytest.raises(Truncated, match="10 of 12"):
        remote.put_blob(descriptor, opening(b"ten bytes."), lambda _size: None)
    assert not remote.has_blob(descriptor)


def test_sending_is_heard_of_once_for_each_byte(remote: Remote) -> None:
    data = random_bytes(3_000_000)
    heard: list[int] = []
    remote.put_blob(blob(data), opening(data), heard.append)
    assert sum(heard) == len(data)
    assert len(heard) > 1


def test_raising_while_sending_stops_it(remote: Remote) -> None:
    data = random_bytes(8 << 20)

    def stop(_size: int) -> None:
        raise OSError("the listener's own")

    with pytest.raises(OSError, match="own"):
        remote.put_blob(blob(data), opening(data), stop)
    assert not remote.has_blob(blob(data))
    assert remote.traffic.sent < len(data)


def test_a_stream_may_be_left_early(remote: Remote) -> None:
    data = random_bytes(32 << 20)
    descriptor = put(remote, data)
    before = remote.traffic
    with remote.read_blob(descriptor) as pieces:
        first = bytes(next(iter(pieces)))
    assert data.startswith(first)
    assert (remote.traffic - before).received < len(data) // 2
    assert read(remote, descriptor, 5, 5) == data[5:10]


@pytest.mark.parametrize("kind", [KeyError, NotFound])
def test_an_error_of_the_reader_comes_out(remote: Remote, kind: type[Exception]) -> None:
    descriptor = put(remote, random_bytes(4 << 20))
    with pytest.raises(kind, match="mine"), remote.read_blob(descriptor) as pieces:
        raise kind(f"mine after {len(next(iter(pieces)))} bytes")


def test_many_threads_read_at_once(remote: Remote) -> None:
    data = random_bytes(4 << 20)
    descriptor = put(remote, data)
    offsets = range(0, len(data), 32768)
    before = remote.traffic
    with ThreadPoolExecutor(16) as pool:
        pieces = list(pool.map(lambda offset: read(remote, descriptor, offset, 32768), offsets))
    assert b"".join(pieces) == data
    assert remote.traffic - before == Traffic(requests=len(offsets), received=len(data))


# Conditions


def test_of_several_that_write_a_tag_if_it_is_not_there_one_wins(
    place: Place, open_another: OpenAnother, repository: str
) -> None:
    if place.conditions not in ("all", "absence"):
        pytest.skip(f"{place.kind} has no conditional writes")
    images = [put_image(open_another(repository), bytes([number])) for number in range(6)]

    def put_key(image: tuple[Descriptor, bytes]) -> Conflict | None:
        try:
            open_another(repository).put_manifest(*image, tag="key", expected=Expected())
        except Conflict as error:
            return error
        return None

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(put_key, images))
    assert told.count(None) == 1
    assert all("key" in str(error) for error in told if error is not None)
    assert open_another(repository).manifest("key") == images[told.index(None)]


def test_a_tag_is_replaced_only_if_it_names_what_was_seen(place: Place, remote: Remote) -> None:
    if place.conditions != "all":
        pytest.skip(f"{place.kind} has no conditional replacing")
    first, second = put_image(remote, b"1", tag="key"), put_image(remote, b"2")
    third = put_image(remote, b"3")
    remote.put_manifest(*second, tag="key", expected=Expected(first[0].digest))
    with pytest.raises(Conflict):
        remote.put_manifest(*third, tag="key", expected=Expected(first[0].digest))
    with pytest.raises(Conflict):
        remote.put_manifest(*third, tag="nothing", expected=Expected(first[0].digest))
    assert remote.manifest("key") == second


def test_a_condition_that_cannot_be_kept_is_refused_and_nothing_written(place: Place, remote: Remote) -> None:
    image = put_image(remote, b"1", tag="key")
    other = put_image(remote, b"2")
    if place.conditions == "none":
        with pytest.raises(Invalid):
            remote.put_manifest(*other, tag="new", expected=Expected())
    elif place.conditions == "absence":
        with pytest.raises(Invalid):
            remote.put_manifest(*other, tag="key", expected=Expected(image[0].digest))
    assert list(remote.tags()) == ["key"]
    assert remote.manifest("key") == image


# Traffic


def test_every_request_and_byte_is_counted(place: Place, remote: Remote) -> None:
    data = random_bytes(100_000)
    assert remote.traffic == Traffic()
    descriptor = put(remote, data)
    requests = place.blob_requests
    assert remote.traffic == Traffic(requests=requests, sent=100_000)
    read(remote, descriptor, 10, 20)
    assert remote.traffic == Traffic(requests=requests + 1, sent=100_000, received=20)
    remote.has_blob(descriptor)
    assert remote.traffic == Traffic(requests=requests + 2, sent=100_000, received=20)
    manifest, body = manifest_of(descriptor)
    remote.put_manifest(manifest, body, tag="x")
    remote.manifest("x")
    assert remote.traffic == Traffic(
        requests=requests + 3 + place.manifest_requests,
        sent=100_000 + place.manifest_copies * len(body),
        received=20 + len(body),
    )


def test_remotes_of_one_host_count_apart(remote: Remote, open_another: OpenAnother) -> None:
    put(remote, b"x")
    assert open_another("another").traffic == Traffic()


def test_its_name_is_its_reference_without_a_tag(place: Place, remote: Remote, repository: str) -> None:
    assert Reference.parse(remote.name) == Reference.parse(place.reference(repository))
