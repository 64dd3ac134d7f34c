"""What every snapshot driver must do: the contract in `shipway.snapshots.contract`, statement by statement."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from support.snapshots import (
    MTIME,
    copy_changes,
    entry,
    import_directory,
    leftovers,
    listing,
    shown,
    write_layer,
)
from support.trees import describe, make_varied_tree

from shipway.errors import (
    Corrupt,
    Invalid,
    NoSpace,
    NotFound,
    ShipwayError,
    SizeMismatch,
    Truncated,
    UnsafeEntry,
)
from shipway.snapshots.choose import open_driver
from shipway.snapshots.contract import SnapshotDriver
from shipway.trees.diff import changes, walk
from shipway.trees.entry import Content, Entry

Layer = list[tuple[Entry, bytes]]
BASE: Layer = [
    entry("", "dir"),
    entry("bin", "dir"),
    entry("bin/tool", content=b"tool", mode=0o755),
    entry("lib", "dir", mode=0o700),
    entry("lib/a", content=b"a"),
    entry("lib/b", content=b"b"),
    entry("link", "symlink", link="bin"),
    entry("one", content=b"linked"),
    entry("two", "hardlink", link="one"),
]


def interrupt_after(add: Callable[[Entry, Content], None], one: tuple[Entry, bytes]) -> None:
    """Add an entry, and then be interrupted."""
    add(*one)
    raise KeyboardInterrupt


@pytest.fixture
def store(driver: SnapshotDriver, root: Path) -> Path:
    """Return the directory that the driver works in."""
    return next(path for path in root.iterdir() if path.name.startswith(driver.name))


# -- life


def test_a_snapshot_is_active_until_it_is_committed_and_then_stays_so(driver: SnapshotDriver) -> None:
    driver.prepare(["first"])
    assert not driver.is_committed("first")
    with driver.mounted(["first"], readonly=False) as path:
        (path / "file").write_text("text")
    driver.commit("first")
    driver.commit("first")
    assert driver.is_committed("first")
    with driver.mounted(["first"], readonly=False) as path:
        assert (path / "file").read_text() == "text"


def test_what_a_writer_makes_is_committed_and_visible_only_when_finished(driver: SnapshotDriver, store: Path) -> None:
    with driver.writer(["base"]) as sink:
        for one, content in BASE:
            sink.add(one, content)
        assert list(driver.keys()) == []
        sink.finish()
    assert driver.is_committed("base")
    assert list(driver.keys()) == ["base"]
    assert leftovers(store) == []


def test_a_writer_that_is_left_early_leaves_nothing(driver: SnapshotDriver, store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), driver.writer(["base"]) as sink:
        interrupt_after(sink.add, BASE[0])
    assert list(driver.keys()) == []
    assert leftovers(store) == []


def test_a_removed_snapshot_is_gone_from_disk_and_removing_none_is_no_error(
    driver: SnapshotDriver, store: Path
) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    assert sorted(driver.keys()) == ["base", "next"]
    for key in ("next", "base", "base"):
        driver.remove(key)
    assert list(driver.keys()) == []
    assert list((store / "snapshots").iterdir()) == []
    assert leftovers(store) == []


def test_a_missing_snapshot_is_not_found(driver: SnapshotDriver) -> None:
    with pytest.raises(NotFound):
        driver.is_committed("none")
    with pytest.raises(NotFound):
        driver.usage("none")
    with pytest.raises(NotFound), driver.tree(["none"]):
        pass
    with pytest.raises(NotFound), driver.mounted(["none"], readonly=True):
        pass
    with pytest.raises(NotFound):
        driver.prepare(["none", "next"])
    with pytest.raises(NotFound):
        driver.writer(["none", "next"])


@pytest.mark.parametrize("key", ["", "..", "a/b", "A", "a b", "x" * 129])
def test_what_is_no_key_is_invalid(driver: SnapshotDriver, key: str) -> None:
    with pytest.raises(Invalid):
        driver.prepare([key])
    with pytest.raises(Invalid):
        driver.remove(key)


def test_nothing_replaces_a_snapshot_or_stands_on_one_that_can_change(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    with pytest.raises(Invalid):
        driver.prepare(["base"])
    driver.prepare(["base", "active"])
    with pytest.raises(Invalid):
        driver.prepare(["base", "active", "next"])


# -- what is in it


def test_a_tree_survives_a_writer_in_all_its_variety(driver: SnapshotDriver, tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    import_directory(driver, ["base"], source)
    assert shown(driver, ["base"]) == describe(source)
    with driver.mounted(["base"], readonly=True) as path:
        assert (path / "sparse").stat().st_blocks * 512 < 1 << 20


def test_a_prepared_snapshot_shows_its_parents_tree_and_no_changes(driver: SnapshotDriver, tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "source")
    import_directory(driver, ["base"], source)
    driver.prepare(["base", "next"])
    assert shown(driver, ["base", "next"]) == describe(source)
    assert list(driver.changes(["base", "next"])) == []


def test_tree_and_mount_show_the_same(driver: SnapshotDriver, tmp_path: Path) -> None:
    import_directory(driver, ["base"], make_varied_tree(tmp_path / "source"))
    write_layer(driver, ["base", "next"], [entry("", "dir"), entry("bin", "whiteout"), entry("new", content=b"new")])
    seen = shown(driver, ["base", "next"])
    with driver.tree(["base", "next"]) as tree:
        entries = {one.path: one for one in walk(tree)}
        assert entries.keys() == seen.keys()
        for path, one in entries.items():
            there = seen[path]
            assert (one.mode, one.uid, one.gid) == (stat.S_IMODE(there.mode), there.uid, there.gid)
            assert (one.mtime_ns, one.link) == (there.mtime_ns, there.link)
            assert tuple(sorted(one.xattrs.items())) == there.xattrs
            assert tree.names(path) == sorted(
                (name.removeprefix(f"{path}/") for name in seen if os.path.dirname(name) == path and name),
                key=os.fsencode,
            )
        assert len({one.inode for one in entries.values() if one.inode}) == 1
        assert tree.get("bin") is None
        assert tree.get("new/below") is None


def test_changes_through_a_mount_become_the_canonical_layer(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], [*BASE, entry("gone", "dir"), entry("gone/x"), entry("gone/y", content=b"y")])
    driver.prepare(["base", "next"])
    with driver.mounted(["base", "next"], readonly=False) as path:
        (path / "lib/a").unlink()
        (path / "bin/tool").write_bytes(b"changed")
        (path / "bin/tool").rename(path / "bin/renamed")
        shutil.rmtree(path / "gone")
        (path / "gone").mkdir()
        (path / "gone/new").write_bytes(b"new")
        (path / "link").unlink()
        (path / "link").mkdir()
        (path / "lib/touched").write_bytes(b"x")
        (path / "lib/touched").unlink()
        (path / "lib/b").chmod(0o600)
        expected = describe(path)
    driver.commit("next")
    found = list(driver.changes(["base", "next"]))
    assert listing(found) == [
        ("", "dir"),
        ("bin", "dir"),
        ("bin/renamed", "reg"),
        ("bin/tool", "whiteout"),
        ("gone", "dir"),
        ("gone", "opaque"),
        ("gone/new", "reg"),
        ("lib", "dir"),
        ("lib/a", "whiteout"),
        ("lib/b", "reg"),
        ("link", "dir"),
    ]
    copy_changes(driver, ["base", "next"], driver, ["base", "again"])
    assert shown(driver, ["base", "again"]) == expected
    assert list(driver.changes(["base", "again"])) == found


def test_a_touched_and_restored_file_is_no_change(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    with driver.mounted(["base", "next"], readonly=False) as path:
        (path / "lib/a").write_bytes(b"x")
        (path / "lib/a").write_bytes(b"a")
        os.utime(path / "lib/a", ns=(MTIME, MTIME))
    driver.commit("next")
    assert list(driver.changes(["base", "next"])) == []


def test_a_change_hidden_behind_equal_size_and_times_is_found(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    with driver.mounted(["base", "next"], readonly=False) as path:
        (path / "lib/a").write_bytes(b"Z")
        os.utime(path / "lib/a", ns=(MTIME, MTIME))
    driver.commit("next")
    assert listing(driver.changes(["base", "next"])) == [("", "dir"), ("lib", "dir"), ("lib/a", "reg")]


def test_only_metadata_changes_are_changes(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    with driver.mounted(["base", "next"], readonly=False) as path:
        os.setxattr(path / "lib/a", "user.note", b"new")
        os.utime(path / "bin", ns=(5, 5))
    driver.commit("next")
    assert listing(driver.changes(["base", "next"])) == [("", "dir"), ("bin", "dir"), ("lib", "dir"), ("lib/a", "reg")]


def test_a_new_name_of_a_file_brings_all_its_names(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    write_layer(driver, ["base", "next"], [entry("zzz", "hardlink", link="two")])
    found = list(driver.changes(["base", "next"]))
    assert [(one.path, one.kind, one.link) for one in found if one.path] == [
        ("one", "reg", ""),
        ("two", "hardlink", "one"),
        ("zzz", "hardlink", "one"),
    ]
    assert shown(driver, ["base", "next"])["zzz"].names == ("one", "two", "zzz")


def test_an_opaque_mark_always_comes_with_its_directory(driver: SnapshotDriver) -> None:
    write_layer(driver, ["one"], [entry("", "dir")])
    write_layer(driver, ["base"], BASE)
    write_layer(driver, ["base", "next"], [entry("", "dir"), entry("lib", "dir", mode=0o700), entry("lib", "opaque")])
    assert listing(driver.changes(["base", "next"])) == [("", "dir"), ("lib", "dir"), ("lib", "opaque")]
    assert sorted(shown(driver, ["one", "next"])) == ["", "lib"]


def test_the_first_layer_of_changes_is_the_whole_tree(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    assert listing(driver.changes(["base"])) == [(one.path, one.kind) for one, _ in BASE]


# -- layers from outside


def test_whiteouts_and_opaque_directories_remove_what_is_below_in_any_order(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    layer: Layer = [
        entry("lib/new", content=b"new"),
        entry("lib", "opaque"),
        entry("bin", "whiteout"),
        entry("bin/other", content=b"other"),
        entry("one", "whiteout"),
        entry("nothing/there", "whiteout"),
        entry("nowhere", "opaque"),
        entry("link", "whiteout"),
    ]
    for number, order in enumerate((layer, layer[::-1])):
        chain = ["base", f"next{number}"]
        write_layer(driver, chain, order)
        seen = shown(driver, chain)
        assert sorted(seen) == ["", "bin", "bin/other", "lib", "lib/new", "two"]
        assert seen["two"].names == ("two",)


def test_a_later_entry_replaces_an_earlier_one(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    layer = [
        entry("lib", content=b"now a file"),
        entry("bin", "dir", mode=0o711),
        entry("link", "dir"),
        entry("link/x", content=b"x"),
        entry("link", "symlink", link="elsewhere"),
        entry("one", "dir"),
        entry("lib", "dir"),
    ]
    write_layer(driver, ["base", "next"], layer)
    seen = shown(driver, ["base", "next"])
    assert sorted(seen) == ["", "bin", "bin/tool", "lib", "link", "one", "two"]
    assert stat.S_IMODE(seen["bin"].mode) == 0o711
    assert seen["link"].link == "elsewhere"


def test_a_parent_that_the_layer_lacks_keeps_what_it_had_below(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    before = shown(driver, ["base"])
    write_layer(driver, ["base", "next"], [entry("lib/deep/er/file", content=b"x"), entry("lib/b", "whiteout")])
    after = shown(driver, ["base", "next"])
    for path in ("", "lib", "bin"):
        assert after[path] == before[path]
    assert stat.S_IMODE(after["lib/deep"].mode) == 0o755
    assert "lib/b" not in after


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("dots", [entry("../outside", content=b"x")]),
        ("dots within", [entry("lib/../../outside", content=b"x")]),
        ("dots at the end", [entry("lib/..", "dir")]),
        ("through a symlink below", [entry("link/tool", content=b"x")]),
        ("through a new symlink", [entry("s", "symlink", link="/tmp"), entry("s/outside", content=b"x")]),
        (
            "through a symlink that replaced a directory",
            [entry("d", "dir"), entry("d/in"), entry("d", "symlink", link="/tmp"), entry("d/outside", content=b"x")],
        ),
        ("hard link outside", [entry("h", "hardlink", link="../../../../etc/passwd")]),
        ("hard link through a symlink", [entry("h", "hardlink", link="link/tool")]),
        ("absolute hard link", [entry("h", "hardlink", link="/etc/passwd")]),
        ("hard link to a directory", [entry("h", "hardlink", link="lib")]),
        ("hard link to nothing", [entry("h", "hardlink", link="nothing")]),
        ("hard link to itself", [entry("one", "hardlink", link="one")]),
        ("hard link to what is removed", [entry("one", "whiteout"), entry("h", "hardlink", link="one")]),
        ("below a file", [entry("one/below", content=b"x")]),
        ("whiteout outside", [entry("../ingest", "whiteout")]),
        ("whiteout of the root", [entry("", "whiteout")]),
    ],
)
def test_an_entry_that_would_leave_the_tree_is_refused_and_nothing_stays(
    driver: SnapshotDriver, store: Path, tmp_path: Path, name: str, layer: Layer
) -> None:
    write_layer(driver, ["base"], BASE)
    before = shown(driver, ["base"])
    with pytest.raises(UnsafeEntry):
        write_layer(driver, ["base", "next"], layer)
    assert list(driver.keys()) == ["base"], name
    assert leftovers(store) == []
    assert shown(driver, ["base"]) == before
    assert not list(tmp_path.rglob("outside"))
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"short", Truncated),
        (b"much too long", SizeMismatch),
        ((b"sho", b"rt"), Truncated),
        ((b"much ", b"too long"), SizeMismatch),
        ((7,), Truncated),
        ((8, 1), SizeMismatch),
        ((9, -1), SizeMismatch),
        ((), Truncated),
    ],
)
def test_content_of_another_size_is_refused(
    driver: SnapshotDriver, store: Path, content: bytes | tuple[bytes | int, ...], error: type[ShipwayError]
) -> None:
    pieces = content if isinstance(content, bytes) else iter(content)
    with pytest.raises(error):
        write_layer(driver, ["base"], [(entry("file", size=8)[0], pieces)])
    assert list(driver.keys()) == []
    assert leftovers(store) == []


@pytest.mark.parametrize(
    "one",
    [
        entry("x" * 300),
        entry("nul\0byte"),
        entry("file", mtime_ns=1 << 100),
        pytest.param(entry("file", uid=1 << 40), marks=pytest.mark.root),
        entry("s", "symlink"),
        entry("s", "symlink", link="x" * 5000),
        entry("/".join(["d"] * 5000)),
    ],
    ids=["long name", "NUL", "time", "owner", "no target", "long target", "deep"],
)
def test_metadata_that_no_file_can_have_is_refused(
    driver: SnapshotDriver, store: Path, one: tuple[Entry, bytes]
) -> None:
    with pytest.raises((Invalid, Corrupt)):
        write_layer(driver, ["base"], [one])
    assert list(driver.keys()) == []
    assert leftovers(store) == []


def test_a_content_that_fails_midway_leaves_nothing(driver: SnapshotDriver, store: Path) -> None:
    def pieces() -> Content:
        yield b"first"
        raise Corrupt("the rest is damaged")

    with pytest.raises(Corrupt, match="the rest is damaged"):
        write_layer(driver, ["base"], [(entry("file", size=10)[0], pieces())])
    assert list(driver.keys()) == []
    assert leftovers(store) == []


def test_overlay_marks_from_outside_are_not_taken_over(driver: SnapshotDriver) -> None:
    hostile = {f"{space}.overlay.{name}": b"y" for space in ("trusted", "user") for name in ("opaque", "redirect")}
    write_layer(driver, ["base"], BASE)
    write_layer(driver, ["base", "next"], [entry("lib", "dir", xattrs={**hostile, "user.kept": b"1"})])
    seen = shown(driver, ["base", "next"])
    assert seen["lib"].xattrs == (("user.kept", b"1"),)
    assert {"lib/a", "lib/b"} <= seen.keys()


# -- mounting


def test_a_committed_snapshot_is_always_shown_read_only(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    write_layer(driver, ["base", "next"], [entry("new", content=b"new")])
    for chain in (["base"], ["base", "next"]):
        for readonly in (True, False):
            assert all("ro" in mount.options for mount in driver.mounts(chain, readonly=readonly))
            with driver.mounted(chain, readonly=readonly) as path:
                if driver.can_mount:
                    with pytest.raises(OSError, match="Read-only file system"):
                        (path / "lib/a").write_bytes(b"changed")
        with driver.mounted(chain, readonly=True) as path:
            assert (path / "lib/a").read_bytes() == b"a"


def test_an_active_snapshot_can_be_shown_read_only_beside_a_writable_view(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    chain = ["base", "next"]
    with driver.mounted(chain, readonly=True) as view, driver.mounted(chain, readonly=False) as path:
        (path / "new").write_bytes(b"new")
        assert (view / "new").read_bytes() == b"new"
        if driver.can_mount:
            with pytest.raises(OSError, match="Read-only file system"):
                (view / "new").write_bytes(b"changed")


def test_a_mount_is_cleaned_up_when_the_block_raises(driver: SnapshotDriver, store: Path) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    for chain in (["base"], ["base", "next"]):
        for readonly in (True, False):
            with pytest.raises(KeyboardInterrupt), driver.mounted(chain, readonly=readonly):
                raise KeyboardInterrupt
    assert leftovers(store) == []


def test_several_threads_see_one_active_snapshot(driver: SnapshotDriver, store: Path) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    gate = threading.Barrier(6)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                gate.wait(timeout=30)
                with driver.mounted(["base", "next"], readonly=False) as path:
                    gate.wait(timeout=30)
                    (path / f"{number}-{turn}").write_bytes(b"x")
                    gate.wait(timeout=30)
                    assert len([one for one in path.iterdir() if one.name.endswith(f"-{turn}")]) == 6
                    gate.wait(timeout=30)
        except BaseException as error:  # noqa: BLE001  shown below
            failures.append(error)
            gate.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert leftovers(store) == []
    driver.commit("next")
    assert len(driver.changes(["base", "next"])) == 31


def test_a_settled_snapshot_is_shown_read_only_and_can_be_taken_up_again(driver: SnapshotDriver) -> None:
    write_layer(driver, ["base"], BASE)
    driver.prepare(["base", "next"])
    with driver.mounted(["base", "next"], readonly=False) as path:
        (path / "new").write_bytes(b"new")
    assert all("ro" in mount.options for mount in driver.mounts(["base", "next"], readonly=False, settled=True))
    with driver.mounted(["base", "next"], readonly=False, settled=True) as path:
        assert (path / "new").read_bytes() == b"new"
    with driver.mounted(["base", "next"], readonly=False) as path:
        (path / "new").write_bytes(b"newer")
    driver.commit("next")
    assert len(driver.changes(["base", "next"])) == 2


def test_a_chain_of_128_layers_reads_right(driver: SnapshotDriver) -> None:
    chain = ["layer0"]
    write_layer(driver, chain, BASE)
    for number in range(1, 128):
        chain.append(f"layer{number}")
        write_layer(
            driver,
            chain,
            [
                entry(f"only{number}", content=b"%d" % number),
                entry("each", content=b"%d" % number),
                entry(f"only{number - 2}", "whiteout"),
            ],
        )
    with driver.mounted(chain, readonly=True) as path:
        assert (path / "each").read_bytes() == b"127"
        assert sorted(one.name for one in path.glob("only*")) == ["only126", "only127"]
        assert (path / "bin/tool").read_bytes() == b"tool"
    with driver.tree(chain) as tree:
        assert [name for name in tree.names("") if name.startswith("only")] == ["only126", "only127"]
        assert tree.get("only3") is None
    assert listing(driver.changes(chain)) == [
        ("", "dir"),
        ("each", "reg"),
        ("only125", "whiteout"),
        ("only127", "reg"),
    ]


def test_chains_can_be_put_together_freely(driver: SnapshotDriver) -> None:
    write_layer(driver, ["one"], [entry("", "dir"), entry("d", "dir"), entry("d/1", content=b"1"), entry("x")])
    write_layer(driver, ["two"], [entry("", "dir"), entry("d", "dir"), entry("d/2", content=b"2"), entry("y")])
    write_layer(driver, ["two", "over"], [entry("y", "whiteout"), entry("d/1", content=b"11")])
    chain = ["one", "two", "over"]
    seen = shown(driver, chain)
    assert sorted(seen) == ["", "d", "d/1", "d/2", "x"]
    assert shown(driver, chain) == seen
    with driver.mounted(chain, readonly=True) as path:
        assert (path / "d/1").read_bytes() == b"11"
    assert listing(driver.changes(chain)) == [("", "dir"), ("d", "dir"), ("d/1", "reg"), ("y", "whiteout")]
    driver.prepare([*chain, "next"])
    assert list(driver.changes([*chain, "next"])) == []
    assert shown(driver, [*chain, "next"]) == seen
    assert sorted(shown(driver, ["two", "over"])) == ["", "d", "d/1", "d/2"]


# -- the disk


def test_usage_of_what_others_finalize_and_remove_meanwhile_is_a_number_or_not_found(driver: SnapshotDriver) -> None:
    done = threading.Event()

    def look() -> int:
        looks = 0
        while not done.is_set():
            looks += 1
            with suppress(NotFound):
                assert driver.usage("k") >= 0
        return looks

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(60):
            driver.prepare(["k"])
            driver.commit("k")
            driver.remove("k")
        done.set()
        assert looking.result() > 0


def test_usage_is_what_du_says(driver: SnapshotDriver, store: Path, tmp_path: Path) -> None:
    import_directory(driver, ["base"], make_varied_tree(tmp_path / "source"))
    blocks = 0
    seen = set()
    for base, _, files in os.walk(store / "snapshots/base"):
        for name in (".", *files):
            st = os.lstat(os.path.join(base, name))
            if st.st_ino not in seen:
                seen.add(st.st_ino)
                blocks += st.st_blocks
    assert driver.usage("base") == blocks * 512
    assert driver.usage("base") > 1 << 20


def test_both_drivers_agree_on_every_change(open_one: Callable[[str], SnapshotDriver], tmp_path: Path) -> None:
    overlay, native = open_one("overlay"), open_one("native")
    source = make_varied_tree(tmp_path / "source")
    found = []
    for driver in (overlay, native):
        import_directory(driver, ["base"], source)
        driver.prepare(["base", "next"])
        with driver.mounted(["base", "next"], readonly=False) as path:
            (path / "third").unlink()
            shutil.rmtree(path / "bin")
            (path / "bin").mkdir()
            (path / "bin/new").write_bytes(b"new")
            (path / "sparse").write_bytes(b"dense")
            (path / "private/secret").rename(path / "moved")
            (path / "fifo").unlink()
            (path / "fifo").symlink_to("somewhere")
            for name in ("bin/new", "bin", "sparse", "private", "fifo", ""):
                os.utime(path / name, ns=(7, 7), follow_symlinks=False)
        driver.commit("next")
        found.append(list(driver.changes(["base", "next"])))
        with driver.tree(["base"]) as lower, driver.tree(["base", "next"]) as upper:
            assert list(changes(lower, upper)) == found[-1]
    assert found[0] == found[1]
    copy_changes(overlay, ["base", "next"], native, ["base", "copied"])
    copy_changes(native, ["base", "next"], overlay, ["base", "copied"])
    assert shown(native, ["base", "copied"]) == shown(overlay, ["base", "copied"]) == shown(overlay, ["base", "next"])


@pytest.mark.root
@pytest.mark.parametrize("name", ["overlay", "native"])
def test_a_full_disk_is_no_space_and_the_store_stays_as_it_was(name: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    driver = open_driver(name, small)
    try:
        write_layer(driver, ["base"], [*BASE, entry("half", content=bytes(400_000))])
        with pytest.raises(NoSpace):
            write_layer(driver, ["big"], [entry("big", content=b"x" * (1 << 20))])
        if name == "native":
            driver.prepare(["base", "copy"])
            with pytest.raises(NoSpace):
                driver.prepare(["base", "second"])
            driver.remove("copy")
        assert list(driver.keys()) == ["base"]
        assert leftovers(small)[1:] == []  # the tmpfs itself is one line of the mount table
        driver.prepare(["base", "next"])
        with driver.mounted(["base", "next"], readonly=False) as path:
            assert (path / "half").stat().st_size == 400_000
    finally:
        driver.close()
        subprocess.run(["umount", "--lazy", small], check=True)
