"""Refs and keys by way of every kind of place: what arrives, what it costs, who wins, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.buckets import BUCKET, S3Server
from support.contents import blob, opening, put, random_bytes, read
from support.places import Place
from support.program import Program
from support.trees import describe, free_port, make_varied_tree

from shipway import Cache, Conflict, Invalid, LocalImmutableRef, RemoteImmutableRef, ShipwayError
from shipway.errors import RepositoryNotFound, Unavailable
from shipway.references import BucketReference, Reference
from shipway.refs import Traffic
from shipway.remotes import open_remote
from shipway.remotes.bucket import BucketRemote


def open_cache(root: Path, *remotes: str) -> Cache:
    return Cache.open(root, driver="native", remotes=remotes)


def test_a_key_travels_by_any_place(place: Place, repository: str, tmp_path: Path) -> None:
    where = place.reference(repository)
    tree = make_varied_tree(tmp_path / "tree")
    (tree / "big").write_bytes(random_bytes(3_000_000))
    with open_cache(tmp_path / "one") as one, one.import_tree(tree) as ref:
        one.put("deps", ref, push_to=where)
        again = ref.push(str(Reference.parse(where).at(tag="again")))
        assert again.layers_moved == 0
        assert again.traffic.sent < 10_000
        assert again.reference == str(Reference.parse(where).at(tag="again"))
    with open_cache(tmp_path / "two", where) as two:
        assert two.lookup("nobody put this") is None
        found = two.lookup("deps")
        assert isinstance(found, RemoteImmutableRef)
        with found:
            done = found.extract(tmp_path / "out", "bin/tool")
            assert done.traffic.requests == 2
            assert done.traffic.received < 50_000
            with found.pull() as pulled:
                pulled.extract(tmp_path / "pulled")
        with two.remote(again.reference) as named:
            assert named.id.endswith(f"@{again.digest}")
    assert describe(tmp_path / "pulled") == describe(tree)
    assert (tmp_path / "out/tool").read_bytes() == (tree / "bin/tool").read_bytes()


def test_merging_what_is_at_one_place_moves_no_layer(place: Place, repository: str, tmp_path: Path) -> None:
    with open_cache(tmp_path / "store") as cache, ExitStack() as stack:
        remotes = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).write_bytes(random_bytes(200_000, ord(name)))
            at = str(Reference.parse(place.reference(repository)).at(tag=name))
            with cache.import_tree(tmp_path / name) as ref:
                ref.push(at)
            remotes.append(stack.enter_context(cache.remote(at)))
        merged = cache.merge(remotes)
        assert merged is not None
        with merged:
            pushed = cache.push(merged, str(Reference.parse(place.reference(repository)).at(tag="both")))
        assert (pushed.layers, pushed.layers_moved) == (2, 0)
        assert pushed.traffic.sent < 10_000


def test_of_two_that_put_a_key_if_it_is_absent_one_wins(place: Place, repository: str, tmp_path: Path) -> None:
    where = place.reference(repository)
    (tmp_path / "tree").mkdir()
    with open_cache(tmp_path / "one") as one, open_cache(tmp_path / "two", where) as two:
        with one.import_tree(tmp_path / "tree") as mine:
            if place.conditions == "none":
                with pytest.raises(Invalid, match="condition"):
                    one.put("key", mine, push_to=where, only_if_absent=True)
                return
            if place.conditions == "unknown":
                pytest.skip("its emulator knows no conditions")
            one.put("key", mine, push_to=where, only_if_absent=True)
        (tmp_path / "tree/more").write_text("theirs")
        with two.import_tree(tmp_path / "tree") as theirs:
            with pytest.raises(Conflict):
                two.put("key", theirs, push_to=where, only_if_absent=True)
            assert list(two.keys()) == []
            found = two.lookup("key")
            assert isinstance(found, RemoteImmutableRef)
            with found:
                assert found.checksum() == mine_checksum(one)


def mine_checksum(cache: Cache) -> str:
    found = cache.lookup("key")
    assert isinstance(found, LocalImmutableRef)
    with found:
        return found.checksum()


def test_of_several_that_put_a_key_of_one_store_if_it_is_absent_one_wins(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with open_cache(tmp_path / "store") as cache, ExitStack() as stack:
        refs = [stack.enter_context(cache.import_tree(tmp_path / "tree")) for _ in range(8)]

        def put_key(ref: LocalImmutableRef) -> bool:
            try:
                cache.put("key", ref, only_if_absent=True)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(put_key, refs))
        assert won.count(True) == 1
        assert put_key(refs[won.index(True)])
        found = cache.lookup("key")
        assert found is not None
        assert found.id == refs[won.index(True)].id


def test_the_program_says_who_was_first(
    s3_place: Place, repository: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    where = s3_place.reference(repository)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("here")
    program = Program(tmp_path / "store", capfdbinary)
    ref = program("commit", tmp_path / "tree").strip()
    program("key", "put", "deps", ref, "--push", where, "--if-absent")
    program("key", "put", "deps", ref, "--push", where, "--if-absent")
    (tmp_path / "tree/file").write_text("there")
    late = program("commit", tmp_path / "tree").strip()
    assert "#key-" in program.error("key", "put", "deps", late, "--push", where, "--if-absent", code=9)
    assert f"{where}#named" in program("push", ref, f"{where}#named")
    other = Program(tmp_path / "other", capfdbinary)
    other("--remote", where, "extract", "key:deps", tmp_path / "out", "file")
    assert (tmp_path / "out/file").read_text() == "here"
    assert other("cat", f"{where}#named", "/file") == "here"


# Buckets


def test_what_is_counted_is_what_the_server_is_asked(s3: S3Server, s3_place: Place, repository: str) -> None:
    remote = s3_place.open(repository)
    data = random_bytes(20 << 20)
    s3.asked.clear()
    descriptor = put(remote, data)
    assert [one.partition("?")[0].split()[0] for one in s3.requests()].count("PUT") == 3
    assert remote.traffic == Traffic(requests=len(s3.asked), sent=len(data))
    read(remote, descriptor, 5, 100)
    remote.has_blob(descriptor)
    assert remote.traffic.requests == len(s3.asked)


def test_a_blob_that_is_wrong_at_its_end_leaves_no_unfinished_upload(
    s3: S3Server, s3_place: Place, repository: str
) -> None:
    remote = s3_place.open(repository)
    data = random_bytes(20 << 20)
    s3.asked.clear()
    with pytest.raises(ShipwayError, match="content is"):
        remote.put_blob(blob(data), opening(data[:-1] + b"x"))
    assert any(one.startswith("DELETE") for one in s3.requests())  # parts may still be on their way then
    assert s3.unfinished_uploads() == 0
    assert not remote.has_blob(blob(data))


def test_a_blob_is_copied_within_a_bucket_by_the_bucket(s3_place: Place, repository: str) -> None:
    source, target = s3_place.open(repository), s3_place.open(f"{repository}-copy")
    descriptor = put(source, b"data")
    target.put_blob(descriptor, lambda: pytest.fail("it need not be read"), mount_from=source.name)
    assert target.traffic == Traffic(requests=1)
    assert read(target, descriptor) == b"data"
    target.put_blob(blob(b"other"), opening(b"other"), mount_from=source.name)
    assert read(target, blob(b"other")) == b"other"


def test_keys_are_those_of_buildkit(s3: S3Server, s3_place: Place, repository: str) -> None:
    remote = s3_place.open(repository)
    s3.asked.clear()
    descriptor = put(remote, b"data")
    assert [one["PATH_INFO"] for one in s3.asked] == [f"/{BUCKET}/{repository}/blobs/{descriptor.digest}"]
    s3.asked.clear()
    options = f"s3://{BUCKET}/{repository}?endpoint_url={s3.url}&blobs_prefix=b-&manifests_prefix=m/n-"
    other = open_remote(Reference.parse(options))
    put(other, b"data")
    assert [one["PATH_INFO"] for one in s3.asked] == [f"/{BUCKET}/{repository}/b-{descriptor.digest}"]


def test_a_bucket_that_is_not_there_or_cannot_be_reached_is_a_typed_error(s3: S3Server, s3_place: Place) -> None:
    del s3_place
    with pytest.raises(RepositoryNotFound, match="no such bucket"):
        open_remote(Reference.parse(f"s3://nowhere?endpoint_url={s3.url}")).manifest("x")
    nobody = f"s3://b?endpoint_url=http://127.0.0.1:{free_port()}&retry_max_attempts=1"
    with pytest.raises(Unavailable, match="cannot be connected to"):
        open_remote(Reference.parse(nobody)).manifest("x")


@pytest.mark.parametrize(
    ("place", "settings", "said"),
    [
        ("az://c/p", {}, r"az://c/p: no storage account is named; set \$AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://c/p",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "no-base64"},
            r"makes no sense; set \$AZURE",
        ),
        ("gs://c/p", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}, r"makes no sense; set \$GOOGLE"),
    ],
)
def test_settings_that_make_no_sense_are_said_before_anything_is_sent(
    place: str, settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Invalid, match=said) as error:
        open_remote(Reference.parse(place))
    assert "base64" not in str(error.value) + repr(error.value.__cause__)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remote = open_remote(Reference.parse(f"file://{tmp_path}/file/bucket"))
    with pytest.raises(Unavailable, match="cannot be used: Not a directory"):
        put(remote, b"data")


def test_no_message_holds_a_credential(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2-token")
    with pytest.raises(ShipwayError) as error:
        open_remote(Reference.parse(f"s3://nowhere?endpoint_url={s3.url}")).manifest("x")
    assert "hunter2" not in str(error.value) + repr(error.value.__cause__)


def test_parts_are_as_many_as_a_bucket_takes(tmp_path: Path) -> None:
    data = random_bytes(3_000_000)
    remote = BucketRemote(BucketReference("file", str(tmp_path / "bucket")), part=1 << 20)
    descriptor = put(remote, data)
    assert remote.traffic == Traffic(requests=5, sent=len(data))
    assert read(remote, descriptor) == data


def test_those_who_use_no_bucket_do_not_load_obstore() -> None:
    code = "import sys, shipway; shipway.Cache; from shipway import remotes; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
