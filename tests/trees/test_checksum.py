"""Content checksums equal BuildKit's: its vectors, and every line of their description."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checksums import NOTHING, CountedTree, listed

from shipway.errors import Invalid, NotFound, SizeMismatch, Truncated
from shipway.trees.checksum import bare_record, header, record
from shipway.trees.entry import Buffer, Entry, path_key
from shipway.trees.ignore import Patterns

CASES = json.loads((Path(__file__).parents[1] / "fixtures/content-checksum.json").read_text())["cases"]
DATA0 = "sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b"
DATA2 = "sha256:1c67653c3cf95b12a0014e2c4cd1d776b474b3218aee54155d6ae27b9b999c54"
SYMLINK = "sha256:a2ba571981f48ec34eb79c9a3ab091b6491e825c2f7e9914ea86e8e958be7fae"

DOUBLE_STAR = "aa7448215bbf5b837b35ce64467857d8b9747965573d14d4b31b370586370971"

DEEP = [["prefix", "dir"], ["prefix/a", "dir"], ["prefix/a/b", "dir"], ["prefix/a/b/c", "dir"]]
FOUND = [*DEEP, ["prefix/a/b/c/foo", "dir"], ["prefix/a/b/c/foo/bar", "file", "abc"]]
LINKS = [
    ["target", "file", "data0"],
    ["sym", "symlink", "target"],
    ["foo", "dir"],
    ["foo/ghi", "symlink", "target"],
    ["y1", "symlink", "foo/ghi"],
]
FILES = [
    ["bar", "file", "data1"],
    ["foo", "file", "data0"],
    ["fox", "file", "data2"],
    ["x", "dir"],
    ["x/d0", "dir"],
    ["x/d0/abc", "file", "data0"],
    ["x/d0/def", "symlink", "abc"],
    ["x/d0/ghi", "symlink", "nosuchfile"],
    ["y1", "symlink", "foo"],
    ["y2", "symlink", "fox"],
]


def of(rows: list[list[str]], path: str = "/", **options: Any) -> str:
    return CountedTree(rows).checksums.checksum(path, **options)


def entry(**fields: Any) -> Entry:
    values: dict[str, Any] = {"path": "a/name", "kind": "reg", "mode": 0o644} | fields
    return Entry(**values)


@pytest.mark.parametrize(
    ("tree", "check"),
    [
        pytest.param(case["tree"], check, id=f"{i}-{check['path']}")
        for i, case in enumerate(CASES)
        for check in case["checks"]
    ],
)
def test_digests_equal_those_of_buildkit(tree: list[list[str]], check: dict[str, Any]) -> None:
    options = {name: value for name, value in check.items() if name in ("follow", "wildcard")}
    if "error" in check:
        with pytest.raises(NotFound):
            of(tree, check["path"], **options)
    else:
        assert of(tree, check["path"], **options) == check["digest"]


@pytest.mark.parametrize(
    ("tree", "path", "options", "digest"),
    [
        (FILES, "y*", {"wildcard": True}, "982153600b9653a1decb0f961e09e2bc1be335cfcaac9b39dbd1120b65fdf92c"),
        (LINKS, "sym", {"follow": False, "wildcard": True}, SYMLINK[7:]),
    ]
    + [
        (FOUND, "prefix/a", {"include": include, "wildcard": wildcard}, DOUBLE_STAR)
        for include in (["**/foo/**", "**/report"], ["**/foo", "**/report"])
        for wildcard in (False, True)
    ],
)
def test_filtered_digests_equal_those_of_buildkit(
    tree: list[list[str]], path: str, options: dict[str, Any], digest: str
) -> None:
    assert of(tree, path, **options) == "sha256:" + digest


def test_a_record_is_its_fields_as_key_and_value_with_nothing_between_and_the_content() -> None:
    one = entry(uid=12, gid=34, size=3, mode=0o4755, mtime_ns=5, xattrs={"user.b": b"2", "user.a": b"\0"})
    text = b"namemode2541uid12gid34size3typeflag0linknameunamegnamedevmajor0devminor0user.a\0user.b2"
    assert header(one) == text
    assert record(header(one), b"abc", 3, "") == "sha256:" + sha256(text + b"abc").hexdigest()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"kind": "symlink", "mode": 0, "link": "to"}, b"mode511uid0gid0size0typeflag2linknametouname"),
        ({"kind": "dir", "mode": 0o1777}, b"mode1023uid0gid0size0typeflag5linknameuname"),
        ({"kind": "char", "dev": (1, 3)}, b"typeflag3linknameunamegnamedevmajor1devminor3"),
        ({"kind": "block", "dev": (7, 0)}, b"typeflag4linknameunamegnamedevmajor7devminor0"),
        ({"kind": "fifo"}, b"typeflag6linknameunamegnamedevmajor0devminor0"),
    ],
)
def test_each_kind_has_the_letter_that_tar_has_for_it(fields: dict[str, Any], part: bytes) -> None:
    assert part in header(entry(**fields))


def test_only_capabilities_count_of_security_and_system_attributes() -> None:
    xattrs = {"security.capability": b"c", "security.selinux": b"s", "system.posix_acl_access": b"p", "trusted.t": b"t"}
    assert header(entry(xattrs=xattrs)).endswith(b"devminor0security.capabilityctrusted.tt")


def test_the_name_and_the_times_are_not_in_a_record() -> None:
    assert header(entry(path="a", mtime_ns=1)) == header(entry(path="b/c", mtime_ns=2))


def test_a_hole_counts_as_its_zeros() -> None:
    one = entry(size=(3 << 20) + 8)
    pieces: list[Buffer | int] = [b"head", 3 << 20, memoryview(b"tail")]
    whole = b"head" + bytes(3 << 20) + b"tail"
    assert record(header(one), iter(pieces), one.size, "") == record(header(one), whole, one.size, "")


def test_content_of_another_length_than_the_entry_says_is_refused() -> None:
    with pytest.raises(Truncated):
        record(b"", b"ab", 3, "path")
    with pytest.raises(SizeMismatch):
        record(b"", b"abcd", 3, "path")


def test_a_directory_is_its_header_and_each_child_in_byte_order() -> None:
    rows = [["d", "dir"], ["d/b", "file", "data0"], ["d/a", "dir"], ["d/a.c", "file", "data2"]]
    top = bare_record(Entry(path="d", kind="dir", mode=0o755))
    inner = listed(("", top))
    assert of(rows, "d") == listed(("", top), ("/a", inner), ("/a.c", DATA2), ("/b", DATA0))


def test_path_separators_sort_before_anything_else() -> None:
    rows = [["a-b", "file", "data0"], ["a", "dir"], ["a/z", "file", "data2"]]
    top = bare_record(Entry(path="", kind="dir", mode=0o755))
    assert of(rows, "*", wildcard=True) == listed(("/a", top), ("/a/z", DATA2), ("/a-b", DATA0))


def test_symlinks_on_the_way_are_followed_and_the_last_one_when_asked() -> None:
    rows = [
        ["target", "dir"],
        ["target/file", "file", "data0"],
        ["link1", "dir"],
        ["link1/file", "symlink", "../target/file"],
        ["link1/dir", "symlink", "/target"],
        ["link2", "symlink", "link1/dir"],
        ["up", "symlink", "../../../target"],
    ]
    for path in ("target/file", "link1/file", "link1/dir/file", "link2/file", "up/file", "/link2/../target/file"):
        assert of(rows, path) == DATA0
    assert of(rows, "link2/file", follow=False) == DATA0
    assert of(rows, "link1/file", follow=False) != DATA0


def test_a_symlink_that_leads_nowhere_is_not_found_only_if_it_is_followed() -> None:
    for path in ("foo/ghi", "y1"):
        with pytest.raises(NotFound):
            of(LINKS, path)
        assert of(LINKS, path, follow=False).startswith("sha256:")
    assert of(LINKS, "foo/ghi", follow=False) == of(LINKS, "sym", follow=False) == SYMLINK
    with pytest.raises(NotFound):
        of(LINKS, "y*", wildcard=True)
    with pytest.raises(Invalid):
        of([["a", "symlink", "b"], ["b", "symlink", "a"]], "a")


def test_symlinks_inside_a_directory_are_not_followed() -> None:
    digest = "sha256:9b761577efcb1239cf4be971914c5d7404914dd32ff436401af1764dc5446b83"
    assert of(LINKS, "foo") == of(LINKS, "foo", exclude=["*.git"]) == digest
    assert of(LINKS, "fo?", wildcard=True) == "sha256:2797e710c6d1a89ff2d91c834b828b1dc500f2982430a58241df8e146f4c4bb4"


def test_a_wildcard_lists_what_matches_relative_to_the_part_without_one() -> None:
    assert of(FILES, "fo?", wildcard=True) == listed(("/foo", DATA0), ("/fox", DATA2))
    assert of(FILES, "x/*/a*", wildcard=True) == listed(("/d0/abc", DATA0))


def test_a_single_match_with_the_base_name_of_the_path_is_that_record_itself() -> None:
    assert of(FILES, "x/d?/abc", wildcard=True) == DATA0
    assert of(FILES, "foo", wildcard=True) == DATA0
    assert of(FILES, "f*o", wildcard=True) == listed(("/foo", DATA0))


def test_nothing_that_matches_is_the_digest_of_no_bytes() -> None:
    assert of(FILES, "nosuch*", wildcard=True) == NOTHING
    assert of(FILES, "nosuch/*", wildcard=True) == NOTHING
    assert of(FILES, "foo/*", wildcard=True) == NOTHING
    assert of(FILES, include=["nosuch"]) == NOTHING
    assert of(FILES, "nosuch", include=["*"]) == NOTHING
    assert of(DEEP, "prefix/a", include=["**/foo/**"]) == NOTHING
    assert of(FILES, exclude=["*"]) == NOTHING


@pytest.mark.parametrize("wildcard", [False, True])
def test_included_files_come_with_the_headers_of_their_directories(wildcard: bool) -> None:
    top = bare_record(Entry(path="", kind="dir", mode=0o755))
    in_directory = listed(("", top), ("/x", top), ("/x/d0", top), ("/x/d0/abc", DATA0))
    assert of(FILES, "", include=["**/abc"], wildcard=wildcard) == in_directory
    assert of(FILES, "", include=["x/d0/a*"], wildcard=wildcard) == in_directory
    assert of(FILES, "", include=["x/d0"], exclude=["**/def", "x/*/ghi"], wildcard=wildcard) == in_directory
    assert of(FILES, "", include=["x", "!**/???", "**/abc"], wildcard=wildcard) == in_directory
    assert of(FILES, "/", include=["**/abc"], wildcard=wildcard) == listed(
        ("/x", top), ("/x/d0", top), ("/x/d0/abc", DATA0)
    )


def test_patterns_are_relative_to_each_match_of_a_wildcard() -> None:
    top = bare_record(Entry(path="", kind="dir", mode=0o755))
    assert of(FILES, "x*", wildcard=True, include=["d0/abc"]) == listed(
        ("/x", top), ("/x/d0", top), ("/x/d0/abc", DATA0)
    )
    assert of(FILES, "x/*", wildcard=True, include=["abc"]) == listed(("/d0", top), ("/d0/abc", DATA0))


def test_a_path_through_a_symlink_gives_what_the_path_itself_gives() -> None:
    rows = [
        ["data", "dir"],
        ["data/d0", "dir"],
        ["data/d0/d1", "dir"],
        ["data/d0/d1/foo", "file", "abc"],
        ["mnt", "dir"],
        ["mnt/data", "symlink", "../data"],
        ["data/link", "symlink", "d0"],
    ]
    one = of(rows, "data/d0", include=["**/foo"])
    assert of(rows, "mnt/data/d0", include=["**/foo"]) == one
    assert of(rows, "mnt/data/d0", include=["**/foo"], wildcard=True) == one
    many = of(rows, "data/d*", include=["**/foo"], wildcard=True)
    assert of(rows, "mnt/data/d*", include=["**/foo"], wildcard=True) == many != one
    assert of(rows, "mnt/data/link/d*", wildcard=True) == of(rows, "data/d0/d*", wildcard=True) != NOTHING


def test_a_malformed_pattern_is_invalid() -> None:
    with pytest.raises(Invalid):
        of(FILES, "[", wildcard=True)
    with pytest.raises(Invalid):
        of(FILES, include=["!"])


def test_no_record_is_asked_for_that_is_not_needed_nor_those_of_a_directory_that_was_hashed() -> None:
    counted = CountedTree(FILES)
    counted.checksums.checksum("foo")
    counted.checksums.checksum("f*x", wildcard=True)
    assert counted.reads == ["foo", "fox"]
    counted.reads.clear()
    counted.checksums.checksum("/")
    assert sorted(counted.reads) == sorted(counted.contents)
    counted.reads.clear()
    for path in ("/", "x", "x/d0"):
        counted.checksums.checksum(path)
    assert counted.reads == []


def test_a_tree_deeper_than_the_interpreter_recurses() -> None:
    rows = [["/".join(["d"] * depth), "dir"] for depth in range(1, 1900)]
    assert of(rows) != of(rows[:-1])
    assert of(rows, "d", include=["**/d"]) != NOTHING


NAMES = st.text(st.sampled_from("ab.-\udcff"), min_size=1, max_size=3).filter(lambda name: name.strip("."))


@given(st.sets(NAMES, min_size=1, max_size=8))
def test_leaving_out_nothing_lists_a_flat_directory_as_its_own_digest_does(names: set[str]) -> None:
    rows = [["top", "dir"], *([f"top/{name}", "file", repr(name)] for name in names)]
    assert of(rows, "top", exclude=["nosuch"]) == of(rows, "top")


PATHS = st.sets(
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map("/".join), min_size=1, max_size=8
)
GLOBS = st.lists(st.sampled_from(["a", "b", "*", "a*", "**"]), min_size=1, max_size=3).map("/".join)


@given(PATHS, st.lists(GLOBS, min_size=1, max_size=2), st.lists(GLOBS, max_size=2))
def test_what_fits_is_listed_in_order_after_the_directories_that_hold_it(
    paths: set[str], include: list[str], exclude: list[str]
) -> None:
    directories = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(path.count("/") + 1)}
    files = paths - directories
    rows = [*([path, "dir"] for path in directories if path), *([path, "file", path] for path in files)]
    tree = CountedTree(sorted(rows))
    fitting = {
        path
        for path in files | directories
        if Patterns(include).matches(path) and not (exclude and Patterns(exclude).matches(path))
    }
    taken = fitting | {
        path for path in directories if any(other.startswith(path + "/" * bool(path)) for other in fitting)
    }
    top = bare_record(Entry(path="", kind="dir", mode=0o755))
    records = [
        ("/" + path if path else "", top if path in directories else tree.checksums.checksum(path))
        for path in sorted(taken, key=path_key)
    ]
    expected = top if len(records) == 1 and records[0][0] == "" else listed(*records)
    assert tree.checksums.checksum("", include=include, exclude=exclude) == expected
