"""How much of a tree changes between one transfer and the next, for jobs that push and pull."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import trees
from bench.measure import quietly
from bench.scene import Scene


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of transfer: of a tree that the other side has not, or has but for some files."""

    name: str
    about: str
    cold: bool = False
    one_in: int = 0
    """One file in so many has changed; 0: none has, or just `files`."""
    files: int = 0
    quick: tuple[int, ...] = ()
    """Amounts of work for a quick run."""

    def apply(self, tree: Path, count: int, salt: int) -> None:
        """Change a tree of `count` files; another `salt`, another content."""
        changing = count // self.one_in if self.one_in else self.files
        if changing:
            trees.change(tree, changing, salt)


CHANGES = (
    Change("cold", "that the other side has not", cold=True, quick=(1_000,)),
    Change("unchanged", "that the other side has"),
    Change("one-file", "of which the other side has all but one file", files=1, quick=(1_000,)),
    Change("percent", "of which the other side has all but 1 % of the files", one_in=100),
)
WORKS = (3_000, 30_000)


def copied(scene: Scene, tree: Path, target: Path) -> Path:
    """Copy a tree and return the copy."""
    scene.renew(target)
    quietly(["cp", "-a", f"{tree}/.", target])
    return target
