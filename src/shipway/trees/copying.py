"""Copying a whole tree of this disk, or a layer's entries, to a writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from shipway.trees.entry import Content, Entry, LocalTree, OpenFile
from shipway.trees.first_names import FirstNames


class Adding(Protocol):
    """Whatever takes entries."""

    def add(self, entry: Entry, content: Content = b"") -> None:
        """Take one entry, with its content if it is a `reg`; see `TreeSink.add`."""


def copy_entries(
    entries: Iterable[Entry],
    source: LocalTree,
    sink: Adding,
    *,
    link: bool = False,
    written: Callable[[int], None] = lambda _size: None,
) -> None:
    """Hand entries to `sink` in the order given, with contents from `source`; `written` hears of bytes of content.

    They may be a tree's, whose names of one file share an `inode`, or a layer's. With `link`, `source` never
    changes, and files on the same file system may become hard links to its own.
    """
    names = FirstNames()
    for entry in entries:
        if entry.inode and (first := names.first(entry.inode, entry.path)) != entry.path:
            sink.add(msgspec.structs.replace(entry, kind="hardlink", link=first, size=0, inode=0))
        elif entry.kind == "reg":
            fd = source.open(entry.path)
            try:
                sink.add(entry, OpenFile(fd, link=link))
                written(entry.size)
            finally:
                os.close(fd)
        else:
            sink.add(entry)
