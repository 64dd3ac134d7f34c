"""How a ref shows itself as mounts: behaviour of the list, and of mount(8) given it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.caches import OpenCache, write

from shipway import Cache, CachePolicy, LocalImmutableRef, Mountable


@pytest.fixture
def mounting(open_cache: OpenCache) -> Cache:
    """Return a store whose driver mounts; others show trees another way."""
    cache = open_cache()
    if not cache.driver.can_mount:
        pytest.skip(f"no mounts here: {cache.driver.reason}")
    return cache


@contextmanager
def by_mount8(ref: Mountable, target: Path, *, readonly: bool = False) -> Iterator[Path]:
    """Mount a ref as its list says, with the program."""
    target.mkdir(exist_ok=True)
    done: list[Path] = []
    try:
        for one in ref.mount(readonly=readonly):
            command = ["mount", "-t", one.type, "-o", ",".join(one.options), one.source, str(target / one.target)]
            subprocess.run(command, check=True)
            done.append(target / one.target)
        yield target
    finally:
        for place in reversed(done):
            subprocess.run(["umount", str(place)], check=True)


def chain(cache: Cache) -> LocalImmutableRef:
    with cache.new(policy=CachePolicy.RETAIN) as work:
        write(work, below="1")
        base = work.commit()
    with base, cache.new(base) as work:
        write(work, above="2")
        return work.commit()


def test_a_mutable_mounts_read_write_or_read_only_when_asked(cache: Cache) -> None:
    with cache.new() as work:
        with work.mounted() as path:
            (path / "file").write_text("written")
        options = [one.options for one in work.mount(readonly=True)]
        assert options
        assert all("ro" in one for one in options)
        assert not any("ro" in one.options for one in work.mount())
        with work.mounted(readonly=True) as path:
            assert (path / "file").read_text() == "written"


@pytest.mark.root
def test_mount8_shows_a_first_layer_and_a_chain_as_they_are(mounting: Cache, tmp_path: Path) -> None:
    with mounting.new() as work:
        with by_mount8(work, tmp_path / "first") as path:
            (path / "file").write_text("text")
        with work.commit() as first:
            assert [one.type for one in first.mount()] in (["bind"], ["overlay"])
            with by_mount8(first, tmp_path / "first") as path:
                assert (path / "file").read_text() == "text"
    with chain(mounting) as both, by_mount8(both, tmp_path / "both") as path:
        assert {one.name: one.read_text() for one in path.iterdir()} == {"below": "1", "above": "2"}
        with pytest.raises(OSError, match="Read-only"):
            (path / "below").write_text("changed")


def test_a_long_chain_is_looked_up_at_once(cache: Cache) -> None:
    ref = None
    statements: list[int] = []
    for number in range(12):
        with cache.new(ref) as work:
            write(work, **{f"file-{number}": "text"})
            ref = work.commit()
        said: list[str] = []
        cache.store.database._connection.set_trace_callback(said.append)
        with ref.mounted() as path:
            cache.store.database._connection.set_trace_callback(None)
            assert len(list(path.iterdir())) == number + 1
        statements.append(len(said))
    assert set(statements[1:]) == {statements[1]}
