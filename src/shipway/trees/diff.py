"""What one tree changes in another, as a layer's entries: the canonical layer.

It is a function of the two trees alone. It holds

- every entry that is new, or not equal to what the lower tree has there (kind, mode, owner, times,
  attributes, link, device, content), or whose file has other names than it had;
- a whiteout for every name that is gone, or one `opaque` for a directory that keeps none of its old names and
  lost more than one (never for the root, where overlayfs ignores the mark); nothing for what another kind of
  object replaced, since that removes the old one;
- the directories above all of these, so that whoever applies the layer knows their metadata.

Entries are in `path_key` order, an `opaque` right after its directory. Of a file with several names the first is
its entry and the others are `hardlink`s to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, takewhile

from msgspec.structs import replace

from shipway.trees.comparison import Comparison, Pair, joined
from shipway.trees.entry import Entry, LocalTree, join
from shipway.trees.first_names import FirstNames
from shipway.trees.packed import PackedEntries
from shipway.trees.select import Listing
from shipway.trees.stack import OverlayTree

_MARKS = ("whiteout", "opaque")


def walk(tree: Listing, path: str = "", depth: int | None = None) -> Iterator[Entry]:
    """Yield all there is at and below `path`, or just `depth` levels below it, in walk order, itself first."""
    first = tree.get(path)
    if first is None:
        return
    yield first
    if depth == 0:
        return
    stack = [iter(tree.names(path))]
    base = [path]
    while stack:
        for name in stack[-1]:
            entry = tree.get(join(base[-1], name))
            if entry is None:
                continue
            yield entry
            if entry.kind == "dir" and len(stack) != depth:
                stack.append(iter(tree.names(entry.path)))
                base.append(entry.path)
                break
        else:
            stack.pop()
            base.pop()


def changes(
    lower: LocalTree | None, upper: LocalTree, *, unchanged: Callable[[str], bool] = lambda _path: False
) -> PackedEntries[Entry]:
    """Return what makes `upper` of `lower`; without a lower tree everything, the root too.

    `unchanged` says of a regular file that its content is proven to be the lower tree's at the same
    path; the others, where all else is equal, are compared byte by byte.
    """
    if lower is None:
        return PackedEntries(everything(upper))
    return Comparison(lower, upper, unchanged).result(joined(_entries(lower), _entries(upper)))


def everything(tree: LocalTree) -> Iterator[Entry]:
    """Yield what `changes(None, tree)` returns, as it is found."""
    names = FirstNames()
    for entry in _entries(tree):
        if not entry.inode:
            yield entry
        elif (first := names.first(entry.inode, entry.path)) == entry.path:
            yield replace(entry, inode=0)
        else:
            yield replace(entry, kind="hardlink", link=first, size=0, inode=0)


def layer_changes(lower: OverlayTree | None, upper: OverlayTree) -> PackedEntries[Entry]:
    """Return the same as `changes`, where `upper` is `lower` and one more layer directory.

    Only what that directory holds is looked at, unless that is about files with several names in the lower tree:
    their other names may be anywhere in it.
    """
    if lower is None:
        return changes(None, upper)
    comparison = Comparison(lower, upper)
    found = comparison.result(takewhile(lambda _: not comparison.linked_before, _held(lower, upper)))
    if comparison.linked_before:
        return changes(lower, upper, unchanged=lambda path: not upper.is_on_top(path))
    return found


def _held(lower: OverlayTree, upper: OverlayTree) -> Iterator[Pair]:
    """Yield what the top layer's directory holds, and what that hides, beside what was there."""
    held = upper.top_layer()
    entry = next(held, None)

    def inside(directory: str) -> Iterator[Entry]:
        nonlocal entry
        while (entry := next(held, None)) is not None and entry.path.startswith(directory + "/"):
            if entry.kind not in _MARKS and (now := upper.get(entry.path)) is not None:
                yield now

    while entry is not None:
        path = entry.path
        if entry.kind == "opaque":
            yield from joined(_below(lower, path), inside(path))
            continue
        before, now = lower.get(path), None if entry.kind == "whiteout" else upper.get(path)
        if before is not None or now is not None:
            yield path, before, now
        if before is not None and before.is_dir and (now is None or not now.is_dir):
            yield from ((below.path, below, None) for below in _below(lower, path))
        entry = next(held, None)


def _below(tree: OverlayTree, path: str) -> Iterator[Entry]:
    """Yield what is below a directory, in walk order."""
    return islice(tree.entries(path), 1, None)


def _entries(tree: LocalTree) -> Iterator[Entry]:
    listing: Callable[[], Iterator[Entry]] | None = getattr(tree, "entries", None)
    return listing() if listing is not None else walk(tree)
