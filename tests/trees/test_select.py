"""Which entries an extract copies, and where they land: the rules of cp -a, inside a tree."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from shipway.errors import Invalid, NotFound
from shipway.trees.entry import Entry, Kind, join
from shipway.trees.merged import Merged, merge
from shipway.trees.patterns import compile_component, fixed_prefix
from shipway.trees.select import Selection, expand, resolve, select


def tree_of(spec: str) -> Merged:
    """Make a tree of words: `dir/`, `file`, `name->target`, `name=hardlink-target`."""
    entries = []
    for word in spec.split():
        if word.endswith("/"):
            entries.append(Entry(path=word[:-1], kind="dir", mode=0o700))
        elif "->" in word:
            path, target = word.split("->")
            entries.append(Entry(path=path, kind="symlink", link=target))
        elif "=" in word:
            path, target = word.split("=")
            entries.append(Entry(path=path, kind="hardlink", link=target))
        else:
            entries.append(Entry(path=word, kind="reg", size=1))
    return merge([entries])


USR = tree_of(
    "usr/ usr/bin/ usr/bin/cc usr/bin/c++->cc usr/bin/python3.11 usr/bin/python=usr/bin/python3.11 usr/lib/ "
    "usr/lib/a.so usr/lib/b.so usr/lib/sub/ usr/lib/sub/c.so usr/lib/.hidden etc/ etc/conf bin->usr/bin lib->/usr/lib "
    "dangling->nowhere up->../../etc loop->loop one->two two->one"
)


def landed(selection: Selection) -> dict[str, str]:
    return {item.to: item.path for item in selection}


def selected(*sources: str, parents: bool = False, wildcard: bool = False) -> dict[str, str]:
    return landed(select(USR, sources, parents=parents, wildcard=wildcard))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ""),
        ("", ""),
        ("usr/bin/cc", "usr/bin/cc"),
        ("./usr//bin/./cc", "usr/bin/cc"),
        ("/bin/cc", "usr/bin/cc"),
        ("bin/c++", "usr/bin/cc"),
        ("lib/sub/..", "usr/lib"),
        ("../../usr/../../etc", "etc"),
        ("up/conf", "etc/conf"),
        ("usr/lib/../bin/cc", "usr/bin/cc"),
    ],
)
def test_symlinks_are_followed_inside_the_tree_and_never_above_its_root(path: str, found: str) -> None:
    assert resolve(USR, path) == found


def test_a_symlink_at_the_end_is_followed_only_when_asked() -> None:
    assert resolve(USR, "bin", follow_last=False) == "bin"
    assert resolve(USR, "bin", follow_last=True) == "usr/bin"
    assert resolve(USR, "bin/c++", follow_last=False) == "usr/bin/c++"


@pytest.mark.parametrize("path", ["loop", "one/x", "loop/"])
def test_a_loop_of_symlinks_is_invalid(path: str) -> None:
    with pytest.raises(Invalid, match="symbolic links"):
        resolve(USR, path)


def test_a_long_chain_of_symlinks_is_no_loop() -> None:
    tree = tree_of("f " + " ".join(f"l{n}->{f'l{n - 1}' if n else 'f'}" for n in range(255)))
    assert resolve(tree, "l254") == "f"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("etc/conf/", ["/etc/conf", "not a directory"]),
        ("usr/bin/gcc", ["/usr/bin/gcc"]),
        ("bin/gcc", ["/bin/gcc", "/usr/bin/gcc"]),
        ("dangling/x", ["/dangling/x", "/nowhere"]),
        ("etc/conf/x", ["/etc/conf/x", "/etc/conf is not a directory"]),
    ],
)
def test_what_is_missing_is_named_with_what_was_asked_for(path: str, names: list[str]) -> None:
    with pytest.raises(NotFound) as caught:
        select(USR, [path])
    assert all(name in str(caught.value) for name in names)


def test_a_source_lands_under_its_base_name() -> None:
    assert selected("/usr/bin/cc") == {"cc": "usr/bin/cc"}
    assert selected("usr/lib/sub") == {"sub": "usr/lib/sub", "sub/c.so": "usr/lib/sub/c.so"}
    assert selected("bin/cc", "etc") == {"cc": "usr/bin/cc", "etc": "etc", "etc/conf": "etc/conf"}


@pytest.mark.parametrize("sources", [(), ("/",), (".",), ("./",), ("usr/..",), ("..",)])
def test_the_root_lands_its_contents(sources: Sequence[str]) -> None:
    selection = select(USR, sources)
    assert landed(selection) == {path: path for path in landed(selection)}
    assert len(selection) == len(USR) - 1
    assert selection.root == USR.get("")


def test_a_directory_with_a_dot_lands_its_contents() -> None:
    selection = select(USR, ["usr/lib/sub/."])
    assert landed(selection) == {"c.so": "usr/lib/sub/c.so"}
    assert selection.root == USR.get("usr/lib/sub")


def test_a_symlink_is_copied_as_one_and_with_a_slash_as_the_directory_it_leads_to() -> None:
    assert selected("bin") == {"bin": "bin"}
    assert selected("lib/") == {
        "lib": "usr/lib",
        "lib/.hidden": "usr/lib/.hidden",
        "lib/a.so": "usr/lib/a.so",
        "lib/b.so": "usr/lib/b.so",
        "lib/sub": "usr/lib/sub",
        "lib/sub/c.so": "usr/lib/sub/c.so",
    }
    assert selected("dangling") == {"dangling": "dangling"}


def test_with_parents_a_source_lands_under_its_whole_path_and_brings_its_directories() -> None:
    assert selected("usr/lib/sub/c.so", parents=True) == {
        "usr": "usr",
        "usr/lib": "usr/lib",
        "usr/lib/sub": "usr/lib/sub",
        "usr/lib/sub/c.so": "usr/lib/sub/c.so",
    }


def test_with_parents_a_path_through_a_symlink_keeps_its_spelling() -> None:
    assert selected("/bin/cc", parents=True) == {"bin": "usr/bin", "bin/cc": "usr/bin/cc"}
    assert selected("/bin/../../etc/conf", parents=True) == {"etc": "etc", "etc/conf": "etc/conf"}


def test_overlapping_sources_are_copied_once() -> None:
    both = selected("usr/lib", "usr/lib/a.so", "usr/lib/", parents=True)
    assert both == selected("usr/lib", parents=True)
    assert selected("etc/conf", "/etc/conf") == {"conf": "etc/conf"}


def test_directories_that_land_on_one_name_merge() -> None:
    tree = tree_of("a/lib/ a/lib/x b/lib/ b/lib/y")
    selection = select(tree, ["a/lib", "b/lib"])
    assert landed(selection) == {"lib": "b/lib", "lib/x": "a/lib/x", "lib/y": "b/lib/y"}


@pytest.mark.parametrize("spec", ["a/n b/n", "a/n/ b/n", "a/n->x b/n", "a/n/x b/n/x"])
def test_two_different_things_on_one_name_are_refused_and_named(spec: str) -> None:
    tree = tree_of(spec)
    with pytest.raises(Invalid) as caught:
        select(tree, ["a/n", "b/n"])
    assert "/a/n" in str(caught.value)
    assert "/b/n" in str(caught.value)


def test_names_of_one_file_stay_one_file_where_they_land() -> None:
    selection = select(USR, ["usr/bin"])
    firsts = {item.to: item.first for item in selection if item.first}
    assert firsts == {"bin/python3.11": "bin/python"}
    assert [entry.path for entry in selection.files] == ["usr/bin/cc", "usr/bin/python"]
    assert not len(select(USR, ["usr/bin/python3.11"]).links)


def test_directories_come_before_what_is_in_them_and_first_names_before_further_ones() -> None:
    selection = select(USR, [])
    seen: set[str] = {""}
    for item in selection:
        assert item.to.rpartition("/")[0] in seen
        assert not item.first or item.first in seen
        seen.add(item.to)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/usr/lib/*.so", ["usr/lib/a.so", "usr/lib/b.so"]),
        ("usr/lib/?.so", ["usr/lib/a.so", "usr/lib/b.so"]),
        ("./usr/lib/[b-z].so", ["usr/lib/b.so"]),
        ("usr/lib/[!b-z].so", ["usr/lib/a.so"]),
        ("usr/lib/[^b-z].so", ["usr/lib/a.so"]),
        ("usr/lib/*", ["usr/lib/.hidden", "usr/lib/a.so", "usr/lib/b.so", "usr/lib/sub"]),
        ("**/*.so", ["usr/lib/a.so", "usr/lib/b.so", "usr/lib/sub/c.so"]),
        ("usr/**/c.so", ["usr/lib/sub/c.so"]),
        ("usr/lib/**/c.so", ["usr/lib/sub/c.so"]),
        ("usr/lib/sub/**/c.so", ["usr/lib/sub/c.so"]),
        ("usr/lib/**", ["usr/lib/.hidden", "usr/lib/a.so", "usr/lib/b.so", "usr/lib/sub"]),
        ("lib/**", ["lib/.hidden", "lib/a.so", "lib/b.so", "lib/sub"]),
        ("b*/cc", ["bin/cc"]),
        ("*/conf", ["etc/conf", "up/conf"]),
        ("l*/../bin/cc", ["lib/../bin/cc"]),
        ("usr/*/", ["usr/bin/", "usr/lib/"]),
        ("usr/bin/c[+]\\+", ["usr/bin/c++"]),
    ],
)
def test_patterns_match_component_by_component(pattern: str, found: list[str]) -> None:
    assert expand(USR, pattern) == found


def test_matches_land_like_sources() -> None:
    assert selected("usr/lib/*.so", "/etc/c*", wildcard=True) == {
        "a.so": "usr/lib/a.so",
        "b.so": "usr/lib/b.so",
        "conf": "etc/conf",
    }
    assert selected("b*/cc", wildcard=True, parents=True) == {"bin": "usr/bin", "bin/cc": "usr/bin/cc"}


def test_without_wildcard_a_star_is_a_name() -> None:
    tree = tree_of("a*b axb")
    assert landed(select(tree, ["a*b"])) == {"a*b": "a*b"}
    assert landed(select(tree, ["a*b"], wildcard=True)) == {"a*b": "a*b", "axb": "axb"}
    assert landed(select(tree, ["a\\*b"], wildcard=True)) == {"a*b": "a*b"}


@pytest.mark.parametrize("pattern", ["usr/*.c", "no/such/*", "etc/conf/*", "etc/conf/**", "*/"])
def test_a_pattern_that_matches_nothing_is_not_found_and_named(pattern: str) -> None:
    tree = tree_of("etc/conf") if pattern != "*/" else tree_of("file")
    with pytest.raises(NotFound, match="matches") as caught:
        select(tree, [pattern], wildcard=True)
    assert pattern in str(caught.value)


@pytest.mark.parametrize("pattern", ["a[", "a[b", "a[!", "a[b-", "a[]", "x\\", "[z-a]", "a[\\"])
def test_a_malformed_pattern_is_invalid(pattern: str) -> None:
    with pytest.raises(Invalid, match="pattern"):
        compile_component(pattern)


def test_the_fixed_prefix_of_a_pattern_ends_before_its_first_wildcard() -> None:
    assert fixed_prefix("usr/lib/*.so") == "usr/lib"
    assert fixed_prefix("/usr/**") == "/usr"
    assert fixed_prefix("*.c") == ""
    assert fixed_prefix("usr/lib") == "usr/lib"


def test_names_that_are_not_utf8_match_byte_for_byte() -> None:
    name = os.fsdecode(b"raw-\xff\xfe")
    assert compile_component("raw-??").fullmatch(name)
    assert compile_component("raw-*").fullmatch(name)
    assert not compile_component("raw-?").fullmatch(name)


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8))
def test_every_name_matches_itself_escaped_and_any_star(name: str) -> None:
    escaped = "".join("\\" + char for char in name)
    assert compile_component(escaped).fullmatch(name)
    assert compile_component("*").fullmatch(name)
    assert compile_component("?" * len(name)).fullmatch(name)
    assert not compile_component("?" * (len(name) + 1)).fullmatch(name)


def planned(tree: Merged, sources: Sequence[str], *, parents: bool) -> dict[str, str] | None:
    """Return what lands where, worked out one by one; None if something would be lost."""
    landed: dict[str, Entry] = {}

    def land(source: str, path: str, *, whole: bool) -> bool:
        entry = tree.get(source)
        assert entry is not None
        there = landed.get(path, entry)
        if path:
            landed[path] = entry
        below = [(join(source, name), join(path, name)) for name in tree.names(source)] if whole else []
        fits = there.path == entry.path or (there.is_dir and entry.is_dir) or not path
        return fits and all(land(one, to, whole=True) for one, to in below)

    fits = True
    for source in sources:
        found, names = (
            resolve(tree, source, follow_last=source.endswith("/")),
            [part for part in source.split("/") if part],
        )
        if parents:
            for depth in range(1, len(names)):
                above = "/".join(names[:depth])
                fits &= land(resolve(tree, above), above, whole=False)
        fits &= land(found, "/".join(names) if parents else "".join(names[-1:]), whole=True)
    return {path: entry.path for path, entry in landed.items()} if fits else None


NAMED = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(NAMED, st.sampled_from(("dir", "reg", "/a", "/b", "c")), min_size=2, max_size=9), st.data())
def test_what_lands_is_what_copying_the_sources_one_by_one_makes(spec: dict[str, str], data: st.DataObject) -> None:
    entries = []
    for path, what in spec.items():
        is_above = any(other.startswith(path + "/") for other in spec)
        kind: Kind = "dir" if is_above or what == "dir" else "reg" if what == "reg" else "symlink"
        entries.append(Entry(path=path, kind=kind, link=what if kind == "symlink" else "", size=kind == "reg"))
    tree = merge([entries])
    sources = data.draw(st.lists(st.sampled_from([*spec, "a/", "b/", "/"]), min_size=1, max_size=3))
    parents = data.draw(st.booleans())
    found: dict[str, str] | None = None
    try:
        found = landed(select(tree, sources, parents=parents))
    except NotFound:
        return
    except Invalid as error:
        if "lands too" not in str(error):  # a loop
            return
    event("refused" if found is None else "landed")
    assert found == planned(tree, sources, parents=parents)
