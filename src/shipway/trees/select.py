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
from typing import Protocol

from shipway.errors import Invalid, NotFound
from shipway.trees.entry import Entry, join, parent_of, path_key
from shipway.trees.patterns import compile_component, has_magic

MAX_LINKS = 255
"""Symlinks followed for one path before it counts as a loop."""


class Listing(Protocol):
    """The part of a `Tree` that shows what there is, without contents."""

    def get(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory `path` in byte order."""


@dataclass(frozen=True, slots=True)
class Selected:
    """One object to write: `source` in the tree lands at `path` under the destination."""

    source: Entry
    path: str
    first: str = ""
    """For a further name of a file: the destination path of its first name, which comes before."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything to write, in an order in which it can be: directories first, then what is in them."""

    items: tuple[Selected, ...]
    root: Entry | None = None
    """The directory whose contents land in the destination itself, if any; the last one named."""

    def files(self) -> list[Entry]:
        """Return the entries whose content is needed, each file once."""
        return [item.source for item in self.items if item.source.is_file and not item.first]


@dataclass(slots=True)
class _Plan:
    """A selection in the making: destination path to source."""

    tree: Listing
    landed: dict[str, Entry] = field(default_factory=dict)
    root: Entry | None = None

    def land(self, source: Entry, path: str) -> None:
        """Place one object; Invalid if something else is there."""
        if not path:
            self.root = source
            return
        there = self.landed.get(path)
        if there is not None and there.path != source.path and not (there.is_dir and source.is_dir):
            raise Invalid(f"would land on {path!r}, where /{there.path} lands too", where=f"/{source.path}")
        self.landed[path] = source

    def land_tree(self, source: Entry, path: str) -> None:
        """Place an object with all that is below it."""
        pending = [(source, path)]
        while pending:
            source, path = pending.pop()
            self.land(source, path)
            if source.is_dir:
                pending += [
                    (_existing(self.tree, join(source.path, name)), join(path, name))
                    for name in self.tree.names(source.path)
                ]

    def finish(self) -> Selection:
        """Put all in writing order, and tie the names of one file together."""
        items: list[Selected] = []
        first: dict[int, str] = {}
        for path in sorted(self.landed, key=path_key):
            source = self.landed[path]
            known = first.setdefault(source.inode, path) if source.inode and not source.is_dir else path
            items.append(Selected(source, path, "" if known == path else known))
        return Selection(tuple(items), self.root)


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
    entry = _existing(plan.tree, found)
    if as_directory and not entry.is_dir:
        raise _missing(source, found, "not a directory")
    if parents:
        if ".." in written:
            written = found.split("/") if found else []
        for depth in range(1, len(written)):
            above = "/".join(written[:depth])
            plan.land(_existing(plan.tree, resolve(plan.tree, above, follow_last=True)), above)
        plan.land_tree(entry, "/".join(written))
    else:
        plan.land_tree(entry, "" if contents else written[-1])


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
