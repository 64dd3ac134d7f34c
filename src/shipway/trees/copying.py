"""Copying entries from one tree to another on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shipway.trees.entry import Entry, OpenFile, Tree, TreeSink


def copy(
    source: Tree,
    entries: Sequence[Entry],
    sink: TreeSink,
    *,
    link: bool = False,
    written: Callable[[int], None] = lambda _size: None,
) -> None:
    """Add a layer's `entries` to `sink`, with contents from `source`; `written` hears of bytes of content.

    With `link`, `source` never changes, and files that are on the same file system may be hard links to its own.
    """
    files = source.read(entry for entry in entries if entry.is_file)
    for entry in entries:
        if not entry.is_file:
            sink.add(entry)
            continue
        read, content = next(files)
        if link and isinstance(content, OpenFile):
            content = OpenFile(content.fd, link=True)
        sink.add(read, content)
        written(entry.size)
