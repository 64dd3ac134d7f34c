"""Each command does its work, prints ids first, and one document with --json."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.checksums import listed, plain_checksum, plain_record
from support.program import Program
from support.trees import describe, make_varied_tree

from shipway.cache import Cache
from shipway.demo.server import serving


def commit(shipway: Program, tree: Path, *options: str) -> str:
    return shipway("commit", tree, *options).strip()


def test_commit_prints_the_id_and_ls_shows_it(shipway: Program, tree: Path) -> None:
    ref = commit(shipway, tree, "--description", "the first")
    [line] = shipway("ls").splitlines()
    assert line.split()[0] == ref
    assert line.endswith("immutable  unused  the first")
    assert "\t" not in line


def test_commit_over_a_parent_and_with_a_key(shipway: Program, tree: Path) -> None:
    first = commit(shipway, tree)
    (tree / "more").write_text("more")
    document = shipway.json("commit", tree, "--parent", first[:10], "--key", "deps")
    assert document["parent"] == first
    assert document["key"] == "deps"
    assert shipway.json("key", "get", "deps")["id"] == document["id"]


def test_json_may_stand_before_or_after_the_command(shipway: Program, tree: Path) -> None:
    commit(shipway, tree)
    assert shipway("--json", "ls") == shipway("ls", "--json")


def test_show_tells_all_about_a_ref(shipway: Program, tree: Path) -> None:
    ref = commit(shipway, tree, "--key", "deps", "--description", "a line")
    document = shipway.json("show", ref[:8])
    assert (document["id"], document["keys"], document["description"]) == (ref, ["deps"], "a line")
    assert document["policy"] == "default"
    assert shipway.json("show", "key:deps")["id"] == ref
    assert shipway("show", ref).splitlines()[0].split() == ["id", ref]


def test_checksum_prints_a_digest_that_times_do_not_change(shipway: Program, tree: Path) -> None:
    ref = commit(shipway, tree)
    whole = shipway("checksum", ref).strip()
    assert whole == plain_checksum(tree)
    assert shipway.json("checksum", ref, "bin/link") == {"path": "bin/link", "digest": plain_record(tree / "bin/tool")}
    assert shipway("checksum", ref, "bin/link", "--no-follow").strip() == plain_record(tree / "bin/link")
    assert shipway("checksum", ref, "/bin/t*", "--wildcard").strip() == listed(
        ("/tool", plain_record(tree / "bin/tool"))
    )
    filtered = shipway("checksum", ref, "--include", "bin", "--include", "note", "--exclude", "bin/*").strip()
    assert filtered == listed(("/bin", plain_record(tree / "bin")), ("/note", plain_record(tree / "note")))
    os.utime(tree / "note", (1, 1))
    assert shipway("checksum", commit(shipway, tree)).strip() == whole
    assert "no such file" in shipway.error("checksum", ref, "nosuch", code=3)
    assert "pattern" in shipway.error("checksum", ref, "--include", "!", code=2)


def test_files_lists_everything_below_a_path(shipway: Program, tree: Path) -> None:
    ref = commit(shipway, tree)
    assert shipway("files", ref).split() == ["/", "/bin", "/bin/link", "/bin/tool", "/data", "/note"]
    assert shipway("files", ref, "bin").split() == ["/bin", "/bin/link", "/bin/tool"]
    long = shipway("files", ref, "/bin", "-l").splitlines()
    assert long[1].startswith("lrwxrwxrwx")
    assert long[1].endswith("/bin/link -> tool")
    assert long[2].split()[:4] == ["-rwxr-xr-x", str(os.getuid()), str(os.getgid()), "1000"]
    by_path = {entry["path"]: entry for entry in shipway.json("files", ref)}
    assert by_path["/bin/link"]["link"] == "tool"
    assert by_path["/bin/tool"]["mode"] == 0o755
    assert by_path["/note"]["mtime_ns"] == (tree / "note").stat().st_mtime_ns


def test_names_that_could_drive_a_terminal_are_escaped(shipway: Program, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a\x1b[2Jb\nc").touch()
    with open(os.fsencode(tree) + b"/\xff", "wb"):
        pass
    ref = commit(shipway, tree)
    assert shipway("files", ref).splitlines() == ["/", "/a\\x1b[2Jb\\nc", "/\\xff"]
    assert [entry["path"] for entry in shipway.json("files", ref)] == ["/", "/a\x1b[2Jb\nc", "/\udcff"]


def test_cat_writes_the_exact_bytes(shipway: Program, tree: Path) -> None:
    ref = commit(shipway, tree)
    assert shipway.raw("cat", ref, "/data") == (tree / "data").read_bytes()
    assert shipway.raw("cat", ref, "bin/link") == (tree / "bin/tool").read_bytes()
    assert shipway.json("cat", ref, "note") == {"path": "/note", "size": 8, "encoding": "utf-8", "content": "grüße\n"}
    document = shipway.json("cat", ref, "data")
    assert document["encoding"] == "base64"
    assert base64.b64decode(document["content"]) == (tree / "data").read_bytes()


def test_extract_copies_as_cp_does(shipway: Program, tree: Path, tmp_path: Path) -> None:
    ref = commit(shipway, tree)
    assert shipway("extract", ref, tmp_path / "one", "/bin/tool").startswith("extracted 1 entry, 1000 B")
    assert os.listdir(tmp_path / "one") == ["tool"]
    shipway("extract", ref, tmp_path / "two", "bin/tool", "--parents")
    assert (tmp_path / "two/bin/tool").read_bytes() == (tree / "bin/tool").read_bytes()
    document = shipway.json("extract", ref, tmp_path / "three", "--wildcard", "*/t*", "n*")
    assert document["entries"] == 2
    assert document["traffic"] == {"requests": 0, "received": 0, "sent": 0}
    assert sorted(os.listdir(tmp_path / "three")) == ["note", "tool"]


def test_extract_of_everything_gives_the_tree_back(shipway: Program, tmp_path: Path) -> None:
    source = make_varied_tree(tmp_path / "tree")
    ref = commit(shipway, source)
    shipway("extract", ref, tmp_path / "out")
    assert describe(tmp_path / "out") == describe(source)


def test_keys_are_put_listed_and_moved(shipway: Program, tree: Path) -> None:
    first = commit(shipway, tree)
    (tree / "note").write_text("changed")
    second = commit(shipway, tree)
    shipway("key", "put", "a key, with spaces and ://", first)
    assert shipway("key", "put", "other", "key:a key, with spaces and ://").strip() == first
    shipway("key", "put", "a key, with spaces and ://", second)
    assert shipway("key", "get", "a key, with spaces and ://").strip() == second
    assert {one["key"]: one["id"] for one in shipway.json("key", "ls")} == {
        "a key, with spaces and ://": second,
        "other": first,
    }
    assert sorted(line.split()[0] for line in shipway("key", "ls").splitlines()) == sorted([first, second])


def test_prune_says_what_it_removed_and_what_that_freed(shipway: Program, tree: Path) -> None:
    first = commit(shipway, tree)
    (tree / "note").write_text("changed")
    second = commit(shipway, tree)
    usage = shipway.json("du")
    assert usage["total"] == usage["reclaimable"] == sum(one["size"] for one in usage["records"]) > 0
    removed = shipway.json("prune", first[:12])
    assert [one["id"] for one in removed["removed"]] == [first]
    assert removed["freed"] == removed["removed"][0]["size"]
    lines = shipway("prune", "--all").splitlines()
    assert lines[0].startswith(second)
    assert lines[-1].startswith("removed 1 ref, freed ")
    assert shipway("ls") == ""
    assert shipway.json("prune") == {"removed": [], "freed": 0}


@contextmanager
def served(shipway: Program, tmp_path: Path) -> Iterator[str]:
    with serving(shipway.root, tmp_path / "server.log") as reference:
        yield reference


def test_a_ref_moves_from_worker_to_worker_and_back(
    shipway: Program, tree: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    other = Program(tmp_path / "other", capfdbinary)
    commit(shipway, tree, "--key", "deps")
    with served(shipway, tmp_path) as at:
        remote = ("--remote", at)
        found = other.json(*remote, "key", "get", "deps")
        assert found["remote"] is True
        assert found["id"].startswith(at + "@sha256:")
        assert other(*remote, "files", "key:deps", "bin").split() == ["/bin", "/bin/link", "/bin/tool"]
        assert other.raw("cat", found["id"], "data") == (tree / "data").read_bytes()
        assert other.json("show", found["id"])["reference"] == found["id"]
        assert other.json(*remote, "show", "key:deps")["reference"] == found["id"]
        extracted = other.json(*remote, "extract", "key:deps", tmp_path / "out", "/note")
        assert extracted["traffic"]["received"] > 0
        assert (tmp_path / "out/note").read_text() == "grüße\n"
        pulled = other.json("pull", found["id"])
        assert pulled["reference"] == found["id"]
        (tree / "note").write_text("changed\n")
        changed = commit(other, tree, "--parent", pulled["id"])
        pushed = other.json("push", changed, at + ":changed")
        assert (pushed["layers"], pushed["layers_moved"]) == (2, 1)
        assert shipway.raw("cat", at + ":changed", "note") == b"changed\n"
        other("key", "put", "changed", changed, "--push", at)
        assert shipway("files", "key:changed", "note").strip() == "/note"
        assert other("pull", "key:changed").strip() == changed


def test_layers_are_converted_and_their_indexes_shared(
    shipway: Program, tree: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    other = Program(tmp_path / "other", capfdbinary)
    ref = commit(shipway, tree)
    with served(shipway, tmp_path) as at:
        pushed = shipway.json("push", ref, at + ":gzip", "--compression", "gzip", "--level", "3")
        assert shipway.json("push", ref, at + ":same", "--compression", "zstd")["digest"] == pushed["digest"]
        kept = other.json("convert", at + ":gzip", at + ":kept")
        converted = other.json("convert", at + ":gzip", at + ":estargz", "--compression", "estargz")
        assert (kept["layers_moved"], converted["layers_moved"]) == (0, 1)
        assert kept["digest"] != converted["digest"]
        assert other.raw("cat", at + ":estargz", "data") == (tree / "data").read_bytes()
        digest = other("index", "publish", at + ":gzip").strip()
        assert shipway.json("index", "take", at + ":gzip", digest)["layers"] == 1
        assert "choose one" in shipway.error("push", ref, at + ":x", "--compression", "lzma", code=2)


def test_explain_tells_of_keys_and_of_what_was_pulled(
    shipway: Program, tree: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    other = Program(tmp_path / "other", capfdbinary)
    ref = commit(shipway, tree, "--key", "deps")
    assert [one["answer"] for one in shipway.json("explain", "deps")["asked"]] == ["hit"]
    assert shipway.json("explain", "key:nobody")["id"] is None
    assert shipway.json("explain", ref)["pulled"] is None
    with served(shipway, tmp_path) as at:
        remote = ("--remote", at, "--remote", at)
        found = other.json(*remote, "explain", "key:deps")
        assert [(one["place"], one["answer"]) for one in found["asked"]] == [
            ("this store", "miss"),
            (at, "hit"),
            (at, "not asked"),
        ]
        pulled = other.json(*remote, "pull", "key:deps")["id"]
        (layer,) = other.json("explain", pulled)["pulled"]["layers"]
        assert (layer["way"], layer["whole"]) == ("fetched", layer["size"])
        assert "fetched" in other("explain", pulled[:8])
    (asked,) = other.json("--remote", at, "explain", "deps")["asked"][1:]
    assert (asked["answer"], "refused" in asked["reason"]) == ("error", True)
    assert "neither a key nor" in other.error("explain", at + ":x", code=2)


@pytest.mark.root
def test_mounts_outlive_the_program_and_their_changes_are_kept(shipway: Program, tree: Path, tmp_path: Path) -> None:
    ref = commit(shipway, tree)
    assert shipway.json("mount") == []
    with Cache.open(shipway.root) as cache:
        if not cache.driver.can_mount:
            pytest.skip(f"cannot mount here: {cache.driver.reason}")
    target = tmp_path / "target"
    target.mkdir()
    mounted = shipway("mount", ref, target, "--writable").strip()
    assert shipway.json("mount") == [{"id": mounted, "target": str(target)}]
    (target / "new").write_text("new")
    done = shipway("umount", target, "--commit").strip()
    assert os.listdir(target) == []
    assert shipway.raw("cat", done, "new") == b"new"
    assert shipway("mount", done, target).strip() == done
    assert (target / "new").read_text() == "new"
    with pytest.raises(OSError, match="Read-only"):
        (target / "other").touch()
    assert shipway.json("umount", target) == {"id": done, "target": str(target), "committed": False}


def test_config_shows_what_is_in_force_and_where_it_comes_from(
    shipway: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("driver = 'native'\n[[prune]]\nmax-used-space = '10GB'\n")
    monkeypatch.setenv("SHIPWAY_REMOTES", "oci://one oci://two")
    document = shipway.json("--config", file, "config")
    assert document["file"] == str(file)
    shown = {one["key"]: (one["value"], one["from"]) for one in document["values"]}
    assert shown["root"] == (str(shipway.root), "argument")
    assert shown["driver"] == ("native", str(file))
    assert shown["remotes"] == (["oci://one", "oci://two"], "$SHIPWAY_REMOTES")
    assert shown["prune[0].max-used-space"] == ("10GB", str(file))
    assert ["remotes", "oci://one", "oci://two", "$SHIPWAY_REMOTES"] in map(str.split, shipway("config").splitlines())
    file.write_text("[[prune]]\nmax-used = '10GB'\n")
    assert f"{file}: prune[0].max-used: there is no such key" in shipway.error("--config", file, "ls", code=2)
    assert shipway.is_untouched
