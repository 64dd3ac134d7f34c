"""What an extract copies, and where each piece of it lands.

The rules are those of `cp -a` (with `parents`, of `cp -a --parents`), inside a tree:

- A source is a path from the tree's root; a leading `/` or `./` changes nothing, and `..` never
  leaves the root. Symlinks on the way are followed, in the tree; a source that is a
  symlink itself is copied as one, unless a slash follows it, which asks for the directory it leads to.
- A source lands under its base name. One without a base name, such as `/`, `dir/.` or `dir/..`, lands
  its contents instead. With `parents` it lands under its whole path as it is written, below directories
  that look like the ones it was found in (`..` is resolved first).
- Directories that land on one name merge, and the later metadata counts. Anything else is
  refused, since one of the two would be lost; what is named twice is copied once.
- Names of one file that are selected together stay one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Protocol

from msgspec.structs import asdict, replace

from shipway.errors import Invalid, NotFound
from shipway.trees.entry import Entry, join, name_key, parent_of, path_key
from shipway.trees.first_names import FirstNames
from shipway.trees.packed import PackedEntries
from shipway.trees.patterns import compile_component, has_magic

MAX_LINKS = 255
"""Symlinks followed for one path before it counts as a loop."""


class Listing(Protocol):
    """The part of a `Tree` that shows what there is, without contents."""

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order."""


class Selected(Entry, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An entry of the tree that is to be written at the path `to` under the destination."""

    to: str = ""
    first: str = ""
    """For a further name of a file: the destination path of its first name, which comes before."""

    def landed(self) -> Entry:
        """Return what is written."""
        return self if self.to == self.path else replace(self, path=self.to)


class Selection:
    """Everything to write, found at once and kept packed; each of the three in the order of destination paths."""

    def __init__(self) -> None:
        """Select nothing yet."""
        self.others: PackedEntries[Selected] = PackedEntries(kind=Selected)
        """Directories, and what else has no content; to be written first."""
        self.files: PackedEntries[Selected] = PackedEntries(kind=Selected)
        """Whose content is needed."""
        self.links: PackedEntries[Selected] = PackedEntries(kind=Selected)
        """Further names of these, and of others; to be written last."""
        self.root: Entry | None = None
        """The directory whose contents land in the destination itself, if any; the last one named."""

    def __iter__(self) -> Iterator[Selected]:
        return chain(self.others, self.files, self.links)

    def __len__(self) -> int:
        return len(self.others) + len(self.files) + len(self.links)

    def add(self, source: Entry, path: str, first: str) -> None:
        """Take one object more, and where it is to land."""
        kind = self.links if first else self.files if source.is_file else self.others
        kind.add(Selected(**asdict(source), to=path, first=first))


@dataclass(frozen=True, slots=True)
class _Landing:
    """A path of the tree that lands somewhere, with all that is below it if it is `whole`."""

    number: int
    """Of two directories that land on one name the one with the higher number counts."""
    source: str
    whole: bool


@dataclass(slots=True)
class _Plan:
    """What was asked for, by destination path."""

    tree: Listing
    landings: dict[str, list[_Landing]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    """By destination path, the names of what was asked for right below it."""
    count: int = 0

    def land(self, source: str, path: str, *, whole: bool) -> None:
        """Place what is at `source`."""
        self.count += 1
        if path not in self.landings:
            self.landings[path] = []
            if path:
                above, _, name = path.rpartition("/")
                self.names.setdefault(above, []).append(name)
        self.landings[path].append(_Landing(self.count, source, whole))

    def finish(self) -> Selection:
        """Find all there is to write, and tie the names of one file together; Invalid if two things share a name."""
        selection = Selection()
        names = FirstNames()
        for source, path in self._walk():
            known = names.first(source.inode, path) if source.inode and not source.is_dir else path
            selection.add(source, path, "" if known == path else known)
        for landing in self.landings.get("", ()):
            selection.root = _existing(self.tree, landing.source)
        return selection

    def _walk(self) -> Iterator[tuple[Entry, str]]:
        """Yield what lands, and where, in the order of destination paths, directories before what is in them."""
        stack = [self._inside("", self.landings.get("", []))]
        while stack:
            for source, path, landings in stack[-1]:
                yield source, path
                if source.is_dir:
                    stack.append(self._inside(path, landings))
                    break
            else:
                stack.pop()

    def _inside(self, path: str, landings: Sequence[_Landing]) -> Iterator[tuple[Entry, str, Sequence[_Landing]]]:
        """Yield what lands right in a directory, where, and what else does there; `landings` are the directories."""
        whole = {landing.source: landing.number for landing in landings if landing.whole}
        named = self.names.get(path, ())
        if len(whole) == 1 and not named:
            for directory, number in whole.items():
                for name in self.tree.names(directory):
                    source = join(directory, name)
                    yield _existing(self.tree, source), join(path, name), (_Landing(number, source, whole=True),)
            return
        found: dict[str, list[_Landing]] = {name: list(self.landings[join(path, name)]) for name in named}
        for directory, number in whole.items():
            for name in self.tree.names(directory):
                found.setdefault(name, []).append(_Landing(number, join(directory, name), whole=True))
        for name in sorted(found, key=name_key):
            below = sorted(found[name], key=attrgetter("number"))
            yield self._meet(below, join(path, name)), join(path, name), below

    def _meet(self, landings: Sequence[_Landing], path: str) -> Entry:
        """Return what counts of all that lands on one name; Invalid if anything would be lost."""
        there: Entry | None = None
        for landing in landings:
            source = _existing(self.tree, landing.source)
            if there is not None and there.path != source.path and not (there.is_dir and source.is_dir):
                raise Invalid(f"would land on {path!r}, where /{there.path} lands too", where=f"/{source.path}")
            there = source
        assert there is not None
        return there


def select(tree: Listing, sources: Sequence[str], *, parents: bool = False, wildcard: bool = False) -> Selection:
    """Return what copying `sources` out of `tree` writes; no sources means everything.

    Raises `NotFound` for a source, or a pattern, that leads to nothing; `Invalid` for a malformed
    pattern, a loop of symlinks, or two sources of which one would overwrite the other.
    """
    plan = _Plan(tree)
    for source in sources or ("/",):
        for path in expand(tree, source) if wildcard and has_magic(source) else [source]:
            _land_source(plan, path, parents=parents)
    return plan.finish()


def _land_source(plan: _Plan, source: str, *, parents: bool) -> None:
    written = [part for part in source.split("/") if part not in ("", ".")]
    contents = source.rstrip("/").rpartition("/")[2] in ("", ".", "..")
    as_directory = contents or source.endswith("/")
    found = resolve(plan.tree, source, follow_last=as_directory)
    if as_directory and not _existing(plan.tree, found).is_dir:
        raise _missing(source, found, "not a directory")
    if parents:
        if ".." in written:
            written = found.split("/") if found else []
        for depth in range(1, len(written)):
            above = "/".join(written[:depth])
            plan.land(resolve(plan.tree, above, follow_last=True), above, whole=False)
        plan.land(found, "/".join(written), whole=True)
    else:
        plan.land(found, "" if contents else written[-1], whole=True)


def resolve(tree: Listing, path: str, *, follow_last: bool = True) -> str:
    """Return the tree path that `path` leads to when symlinks are followed inside the tree.

    The result exists in the tree. With `follow_last` false a symlink at the very end is the result itself.
    Raises `NotFound` that names `path` and the component that is missing, and `Invalid`
    after more than `MAX_LINKS` symlinks.
    """
    todo = path.split("/")[::-1]
    at, links = "", 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = parent_of(at)
            continue
        here = join(at, name)
        entry = tree.get(here)
        if entry is None:
            raise _missing(path, here)
        is_last = not any(part not in ("", ".") for part in todo)
        if entry.kind == "symlink" and (follow_last or not is_last):
            links += 1
            if links > MAX_LINKS:
                raise Invalid("too many levels of symbolic links", where=path)
            todo += entry.link.split("/")[::-1]
            at = "" if entry.link.startswith("/") else at
        elif not is_last and not entry.is_dir:
            raise _missing(path, here, "not a directory")
        else:
            at = here
    return at


def expand(tree: Listing, pattern: str) -> list[str]:
    """Return the paths that `pattern` matches, in tree order, as sources for `select`.

    Each component is matched by itself (`shipway.trees.patterns`); a leading dot is nothing special. `**`
    stands for any number of directories, not through symlinks. A match below another
    match is left out, since it is copied with it. Raises `NotFound` if nothing matches.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    found = {""}
    for place, part in enumerate(parts):
        is_last = place == len(parts) - 1
        if part == "**":
            below = {path for base in found for path in _below(tree, base, directories=not is_last)}
            found = below if is_last else found | below
        else:
            found = {path for base in found for path in _matches(tree, base, part)}
    if pattern.endswith("/"):
        found = {path for path in found if (entry := _followed(tree, path)) and entry.is_dir}
    if not found:
        raise NotFound("nothing matches the pattern", where=pattern)
    kept: list[str] = []
    for path in sorted(found, key=path_key):
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return [path + "/" for path in kept] if pattern.endswith("/") else kept


def _matches(tree: Listing, base: str, part: str) -> Iterator[str]:
    """Yield the paths in the directory that `base` leads to whose last name fits `part`."""
    if part == "..":
        yield join(base, part)
        return
    directory = _followed(tree, base)
    if directory is None:
        return
    if not has_magic(part):
        if tree.get(join(directory.path, part)) is not None:
            yield join(base, part)
        return
    fits = compile_component(part).fullmatch
    yield from (join(base, name) for name in tree.names(directory.path) if fits(name))


def _below(tree: Listing, base: str, *, directories: bool) -> Iterator[str]:
    """Yield everything, or every directory, below the directory that `base` leads to."""
    top = _followed(tree, base)
    pending = [(base, top)] if top else []
    while pending:
        base, directory = pending.pop()
        for name in tree.names(directory.path):
            entry = _existing(tree, join(directory.path, name))
            if entry.is_dir:
                pending.append((join(base, name), entry))
            if entry.is_dir or not directories:
                yield join(base, name)


def _followed(tree: Listing, path: str) -> Entry | None:
    """Return what `path` leads to, or None where it leads nowhere."""
    try:
        return tree.get(resolve(tree, path))
    except (NotFound, Invalid):  # a loop leads nowhere either
        return None


def _existing(tree: Listing, path: str) -> Entry:
    entry = tree.get(path)
    if entry is None:
        raise _missing(path, path)
    return entry


def _missing(asked: str, component: str, what: str = "not in the tree") -> NotFound:
    return NotFound(f"no such file or directory: /{component} is {what}", where="/" + asked.strip("/"))
