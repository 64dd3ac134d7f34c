"""Patterns as in a .dockerignore: each case is what moby's matcher says of it, and a law against a plain oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway.errors import Invalid
from shipway.trees.ignore import Matched, Patterns, compile_glob

CASES = [
    ("**", "file", True),
    ("**/", "dir/file", True),
    ("**", "", True),
    ("*", "", True),
    ("*", "dir/file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/dir2/file", True),
    ("dir/**", "dir", False),
    ("dir/**", "dirt", False),
    ("**/dir", "dir", True),
    ("**/dir", "above/dir", True),
    ("**/dir", "dir/file", True),
    ("**/dir", "redir", False),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/**", "dir/dir2/dir3/file", True),
    ("**file", "profile", True),
    ("**file", "dir/dir/file", True),
    ("**fil?", "profile", False),
    ("**/file*txt", "dir/dir/file.txt", True),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt**", "a/file.txt", True),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    ("a[^a]b", "a☺b", True),
    ("a[!c]e", "ace", True),
    ("a[!c]e", "abe", False),
    (r"[\]a]", "]", True),
    (r"[\-x]", "-", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcZdef", False),
    ("abc?def", "abcZdef", True),
    ("a?b", "a/b", False),
    (r"a\*b", "a*b", True),
    (r"a\*b", "axb", False),
    (r"a\\", "a\\", True),
    ("a(b)c/def", "a(b)c/def", True),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("docs/", "docs/README.md", True),
    ("/docs", "docs/README.md", True),
    ("./docs/../src", "src/main.c", True),
    ("  docs  ", "docs", True),
    ("*x", "xxx", True),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
    ("*\udcff", "a\udcff", True),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), CASES)
def test_one_pattern(pattern: str, path: str, expected: bool) -> None:
    assert Patterns([pattern]).matches(path) is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs/", "!docs/README.md"], "docs/other", True),
        (["docs", " ! docs/README.md "], "docs/README.md", False),
        (["!file.go", "*.go"], "file.go", True),
        (["*.go", "!file.go"], "file.go", False),
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["", " "], "anything", False),
        ([], "anything", False),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str, expected: bool) -> None:
    assert Patterns(patterns).matches(path) is expected


@pytest.mark.parametrize(
    "pattern", ["!", " ! ", "[", "a[", "[^", "[^bc", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[z-a]", "\\"]
)
def test_a_malformed_pattern_is_invalid(pattern: str) -> None:
    with pytest.raises(Invalid):
        Patterns([pattern])


def test_a_single_string_is_no_list_of_patterns() -> None:
    with pytest.raises(Invalid):
        Patterns("*.py")


def test_in_one_component_two_stars_are_no_more_than_one() -> None:
    assert compile_glob("**").fullmatch("name")
    assert not compile_glob("**").fullmatch("a/b")


PARTS = st.sampled_from(["a", "b", "ab", "*", "a*", "?", "**", "[a]", "[^a]b"])
GLOBS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
LISTS = st.lists(st.tuples(st.sampled_from(["", "", "!"]), GLOBS).map("".join), max_size=4)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "bb"]), min_size=1, max_size=4).map("/".join)


@given(LISTS, PATHS)
def test_patterns_mean_what_a_plain_reading_of_them_means(patterns: list[str], path: str) -> None:
    names = path.split("/")
    expected = False
    for pattern in patterns:
        parts = pattern.removeprefix("!").split("/")
        if any(_fits(parts, names[:depth]) for depth in range(1, len(names) + 1)):
            expected = not pattern.startswith("!")
    assert Patterns(patterns).matches(path) is expected


@given(st.lists(GLOBS, max_size=4), PATHS)
def test_without_exceptions_answers_for_the_directory_lead_to_the_same(patterns: list[str], path: str) -> None:
    matcher = Patterns(patterns)
    names = path.split("/")
    parent: Matched = ()
    answer = False
    for depth in range(1, len(names) + 1):
        answer, parent = matcher.match("/".join(names[:depth]), parent)
    assert answer is matcher.matches(path)


def _fits(parts: list[str], names: list[str]) -> bool:
    """Whether the parts of a pattern fit names, one for one but for `**`; tried in every way there is."""
    if not parts:
        return not names
    if parts[0] == "**":
        if len(parts) == 1:
            return bool(names)
        return any(_fits(parts[1:], names[skip:]) for skip in range(len(names) + 1))
    return bool(names) and _name_fits(parts[0], names[0]) and _fits(parts[1:], names[1:])


def _name_fits(part: str, name: str) -> bool:
    if part in ("*", name) or (part == "a*" and name.startswith("a")):
        return True
    return (part == "?" and len(name) == 1) or (part == "[a]" and name == "a") or (part == "[^a]b" and name == "bb")
