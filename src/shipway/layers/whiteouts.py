"""Names in an archive that stand for changes instead of files (image-spec, layer.md, Whiteouts), or for nothing."""

from __future__ import annotations

from shipway.errors import Corrupt, UnsafeEntry
from shipway.layers.headers import FORMATS_OWN, OPAQUE, WHITEOUT, WHITEOUT_META
from shipway.trees.entry import Entry, join


def may_be_whiteout(path: str) -> bool:
    """Whether `whiteout` has to look at `path`: a component starts as whiteouts do, or it is a format's own."""
    return path in FORMATS_OWN or (".wh." in path and (path.startswith(WHITEOUT) or "/.wh." in path))


def whiteout(path: str, where: str) -> Entry | None:
    """Return the change that `path` stands for, or None for a name that means nothing here.

    Old drivers left `.wh..wh.` names of their own in layers, which everyone passes over. So are the files that
    eStargz adds: then a tree is the same whatever format it went through, and whoever lists it.
    """
    if path in FORMATS_OWN:
        return None
    parent, _, name = path.rpartition("/")
    if name == OPAQUE:
        return Entry(path=parent, kind="opaque")
    if path.startswith(WHITEOUT_META) or "/" + WHITEOUT_META in path:
        return None
    target = name.removeprefix(WHITEOUT)
    if may_be_whiteout(parent) or target == name:
        raise Corrupt("it lies below something removed", where=where)
    if target in ("", ".", ".."):
        raise UnsafeEntry("it would remove a directory from within", where=where)
    return Entry(path=join(parent, target), kind="whiteout")
