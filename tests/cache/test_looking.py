"""stat, walk and open: the same of a local ref, and of a remote one that is not here."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.caches import OpenCache
from support.contents import random_bytes
from support.random_trees import TREES, Node, make
from support.trees import Seen, describe, make_varied_tree

from shipway import Cache, FileStat, Invalid, LocalImmutableRef, NotFound, RemoteImmutableRef
from shipway.server import serving
from shipway.server.store_backend import StoreBackend

Either = LocalImmutableRef | RemoteImmutableRef


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = make_varied_tree(tmp_path / "tree")
    (tree / "loop").unlink(missing_ok=True)
    (tree / "loop").symlink_to("loop")
    (tree / "into").symlink_to("/private/../bin")
    (tree / "noise").write_bytes(random_bytes(1 << 20))
    return tree


@pytest.fixture
def local(cache: Cache, tree: Path) -> Iterator[LocalImmutableRef]:
    with cache.import_tree(tree) as ref:
        yield ref


@pytest.fixture
def remote(local: LocalImmutableRef, cache: Cache, open_cache: OpenCache) -> Iterator[RemoteImmutableRef]:
    with serving(StoreBackend(cache)) as url:
        reference = "oci://" + url.removeprefix("http://") + "/shipway:looked-at"
        local.push(reference)
        with open_cache("another").remote(reference) as ref:
            yield ref


@pytest.fixture(params=["local", "remote"])
def ref(request: pytest.FixtureRequest, local: LocalImmutableRef, remote: RemoteImmutableRef) -> Either:
    return local if request.param == "local" else remote


def test_a_walk_shows_what_is_there(ref: Either, tree: Path) -> None:
    found = list(ref.walk())
    seen = describe(tree)
    assert sorted(one.path for one in found) == sorted("/" + path for path in seen)
    for one in found:
        there = seen[one.path.lstrip("/")]
        st = os.lstat(tree / one.path.lstrip("/"))
        assert (one.uid, one.gid, one.mtime_ns, one.link) == (there.uid, there.gid, there.mtime_ns, there.link)
        assert one.mode == st.st_mode & 0o7777
        assert one.size == (st.st_size if one.kind == "reg" else 0)
        assert one.xattrs == dict(there.xattrs)
    order = [os.fsencode(one.path).replace(b"/", b"\0") for one in found]
    assert order == sorted(order)


def test_a_local_and_a_remote_ref_show_the_same(local: LocalImmutableRef, remote: RemoteImmutableRef) -> None:
    assert list(local.walk()) == list(remote.walk())


def test_listing_moves_tables_of_contents_only(remote: RemoteImmutableRef) -> None:
    before = remote.traffic
    list(remote.walk())
    remote.stat("/big")
    moved = remote.traffic - before
    assert moved.requests == 1
    assert moved.received < 20_000 < 1 << 20 < remote.size()


def test_a_walk_begins_where_it_is_asked_to_and_ends_at_its_depth(ref: Either) -> None:
    assert [one.path for one in ref.walk("bin")] == [
        "/bin",
        "/bin/absolute",
        "/bin/dangling",
        "/bin/link",
        "/bin/second",
        "/bin/tool",
    ]
    assert [one.path for one in ref.walk("/into/")] == [one.path for one in ref.walk("/bin")]
    assert [one.path for one in ref.walk("/bin/tool")] == ["/bin/tool"]
    assert [one.path for one in ref.walk(depth=0)] == ["/"]
    top = [one.path for one in ref.walk("/", depth=1)]
    assert top == ["/", *(one.path for one in ref.walk() if one.path.count("/") == 1 and one.path != "/")]
    assert len(list(ref.walk(depth=2))) > len(top)


def test_stat_follows_symlinks_inside_the_tree(ref: Either) -> None:
    tool = ref.stat("/bin/tool")
    assert (tool.kind, tool.mode, tool.path) == ("reg", 0o755, "/bin/tool")
    assert tool == ref.stat("bin/absolute") == ref.stat("../into/link")
    link = ref.stat("bin/absolute", follow=False)
    assert (link.kind, link.link, link.path) == ("symlink", "/bin/tool", "/bin/absolute")
    assert ref.stat("into").kind == "dir"
    assert ref.stat() == ref.stat("/bin/..")


def test_what_it_says_cannot_be_changed(ref: Either) -> None:
    tool = ref.stat("/bin/tool")
    with pytest.raises(FrozenInstanceError):
        tool.size = 0  # type: ignore[misc]  # that is what is tested
    with pytest.raises(TypeError):
        tool.xattrs["user.note"] = b"changed"  # type: ignore[index]
    assert isinstance(tool, FileStat)


def test_an_opened_file_is_read_and_sought_in(ref: Either, tree: Path) -> None:
    content = (tree / "big").read_bytes()
    with ref.open("/big") as file:
        assert isinstance(file, io.BufferedReader)
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.seek(-100, io.SEEK_END) == len(content) - 100
        assert file.read() == content[-100:]
        file.seek(1_000_000)
        assert file.read(300) == content[1_000_000:1_000_300]
    with ref.open("into/link") as file, io.TextIOWrapper(file) as lines:
        assert list(lines) == (tree / "bin/tool").read_text().splitlines(keepends=True)
    for name in ("empty", "sparse", "third"):
        with ref.open(name) as file:
            assert file.read() == (tree / name).read_bytes()


@pytest.mark.parametrize("path", ["/no/such", "bin/dangling", "bin/tool/below"])
def test_what_is_not_there_is_not_found(ref: Either, path: str) -> None:
    for look in (ref.stat, ref.open, lambda path: list(ref.walk(path))):
        with pytest.raises(NotFound, match="no such file"):
            look(path)


def test_what_is_no_file_is_not_opened(ref: Either) -> None:
    for path, what in (("/bin", "is a directory"), ("into", "is a directory"), ("fifo", "not a regular file")):
        with pytest.raises(Invalid, match=what):
            ref.open(path)
    for look in (ref.stat, ref.open):
        with pytest.raises(Invalid, match="symbolic links"):
            look("loop")


def test_a_released_ref_shows_nothing(ref: Either) -> None:
    ref.release()
    for look in (ref.stat, ref.open, lambda path: list(ref.walk(path))):
        with pytest.raises(Invalid, match="was released"):
            look("/bin/tool")


def everything(ref: Either | None, out: Path) -> tuple[list[FileStat], dict[str, bytes], dict[str, Seen]]:
    """Return all there is to see of a ref: what a walk shows, every file's content, and what is extracted."""
    assert ref is not None
    out.mkdir()
    shown = list(ref.walk())
    contents = {}
    for one in shown:
        if one.kind == "reg":
            with ref.open(one.path) as file:
                contents[one.path] = file.read()
    ref.extract(out)
    return shown, contents, {path: seen for path, seen in describe(out).items() if path}


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(trees=st.lists(TREES, min_size=3, max_size=3))
def test_whatever_a_remote_ref_is_made_of_it_shows_what_the_local_one_does(trees: list[Node]) -> None:
    """As layers over each other, as a merge of images, and as what one has over another."""
    with (
        tempfile.TemporaryDirectory() as name,
        Cache.open(Path(name) / "here", driver="native") as here,
        Cache.open(Path(name) / "there", driver="native") as there,
        serving(StoreBackend(here)) as url,
    ):
        base = "oci://" + url.removeprefix("http://") + "/law"
        lower = here.import_tree(make(Path(name) / "tree", trees[0]))
        upper = here.import_tree(make(Path(name) / "tree", trees[1]), lower)
        other = here.import_tree(make(Path(name) / "tree", trees[2]))
        refs = {"lower": lower, "upper": upper, "other": other}
        for tag, ref in refs.items():
            ref.push(f"{base}:{tag}")
        far = {tag: there.remote(f"{base}:{tag}") for tag in refs}
        pairs: list[tuple[Either | None, Either | None]] = [
            (upper, far["upper"]),
            (here.merge([upper, other]), there.merge([far["upper"], far["other"]])),
            (here.merge([other, upper]), there.merge([far["other"], far["upper"]])),
            (here.diff(lower, upper), there.diff(far["lower"], far["upper"])),
        ]
        for number, (local, remote) in enumerate(pairs):
            assert isinstance(remote, RemoteImmutableRef)
            mine = everything(local, Path(name) / f"local-{number}")
            assert everything(remote, Path(name) / f"remote-{number}") == mine
