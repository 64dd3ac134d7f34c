"""Looking into a tree without copying it: what is at a path, what is below it, and a file's content."""

from __future__ import annotations

from types import MappingProxyType
from typing import BinaryIO, Literal, cast

from shipway.errors import Invalid
from shipway.refs import FileStat
from shipway.trees.entry import Entry, SeekableTree
from shipway.trees.select import Listing, resolve

_NO_XATTRS = MappingProxyType[str, bytes]({})


def find(tree: Listing, path: str, *, follow: bool = True) -> Entry:
    """Return what is at `path`, symlinks resolved inside the tree; see `shipway.refs.Extractable.stat`."""
    entry = tree.get(resolve(tree, path, follow_last=follow))
    assert entry is not None, "what resolve() returns exists"
    return entry


def open_file(tree: SeekableTree, path: str) -> BinaryIO:
    """Return the content of the regular file at `path`; see `shipway.refs.Extractable.open`."""
    entry = find(tree, path)
    if not entry.is_file:
        raise Invalid("is a directory" if entry.is_dir else "is not a regular file", where=path)
    return tree.open_file(entry)


def described(entry: Entry) -> FileStat:
    """Return an entry of a tree as the public face shows it."""
    return FileStat(
        path="/" + entry.path,
        kind=cast('Literal["dir", "reg", "symlink", "char", "block", "fifo"]', entry.kind),  # no others are in a tree
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        link=entry.link,
        dev=entry.dev,
        xattrs=MappingProxyType(entry.xattrs) if entry.xattrs else _NO_XATTRS,
    )
