"""What all refs share that show a tree: stat, walk and open, for a tree that is here and one that is not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from shipway.refs import FileStat
from shipway.trees import looking
from shipway.trees.diff import walk
from shipway.trees.entry import SeekableTree
from shipway.trees.select import resolve


class ShowsTree(ABC):
    """A ref whose tree can be looked into."""

    @abstractmethod
    def tree(self) -> AbstractContextManager[SeekableTree]:
        """Return a context manager that yields the tree to be listed and read."""

    def stat(self, path: str = "/", *, follow: bool = True) -> FileStat:
        """Return what is at `path`, without its content; see `shipway.refs.Extractable`."""
        with self.tree() as tree:
            return looking.described(looking.find(tree, path, follow=follow))

    def walk(self, path: str = "/", *, depth: int | None = None) -> Iterator[FileStat]:
        """Yield what is at `path` and below it; see `shipway.refs.Extractable`."""
        with self.tree() as tree:
            for entry in walk(tree, resolve(tree, path), depth):
                yield looking.described(entry)

    def open(self, path: str) -> BinaryIO:
        """Return the content of a file as a seekable binary file; see `shipway.refs.Extractable`."""
        with self.tree() as tree:
            return looking.open_file(tree, path)
