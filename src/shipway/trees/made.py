"""What a layer has put into a tree so far, on little memory for each file."""

from __future__ import annotations

from array import array


class Made:
    """Paths where a layer put something, or wrote below it.

    Of what is no directory only a hash of its name is kept, of 64 bits that nobody who makes layers can foresee: paths
    would take twenty times as much, and few layers ever ask for them again, which takes a removal.
    """

    def __init__(self) -> None:
        """Nothing was made yet."""
        self.directories: set[str] = set()
        self._others: dict[str, array[int] | set[int]] = {}
        """By directory; a set once somebody has looked for one of them."""

    def add(self, path: str, *, directory: bool = False) -> None:
        """Take a path, and whether it is that of a directory."""
        if directory:
            self.directories.add(path)
            return
        above, _, name = path.rpartition("/")
        others = self._others.get(above)
        if others is None:
            self._others[above] = array("q", (hash(name),))
        elif isinstance(others, set):
            others.add(hash(name))
        else:
            others.append(hash(name))

    def __contains__(self, path: str) -> bool:
        if path in self.directories:
            return True
        above, _, name = path.rpartition("/")
        others = self._others.get(above, ())
        if isinstance(others, array):
            others = self._others[above] = set(others)
        return hash(name) in others

    def forget(self, path: str) -> None:
        """Drop a directory and all below it."""
        below = path + "/"
        for one in [one for one in self.directories if one == path or one.startswith(below)]:
            self.directories.remove(one)
        for one in [one for one in self._others if one == path or one.startswith(below)]:
            del self._others[one]
