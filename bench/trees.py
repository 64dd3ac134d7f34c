"""The trees that are worked on: always the same bytes for the same Python, and a real Debian."""

from __future__ import annotations

import os
import random
import shutil
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from bench.fingerprint import ALL, SECOND, Keeps, fingerprint
from bench.measure import quietly

MTIME = 1_700_000_000
MEGABYTE = 1_000_000
DEBIAN = "bookworm"
_PER_DIRECTORY = 40
_PER_PACKAGE = 800


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory that nobody changes any more."""

    path: Path
    files: int
    size: int
    """Bytes of all files."""
    _prints: dict[Keeps, str] = field(default_factory=dict, compare=False)

    def fingerprint(self, keeps: Keeps = ALL) -> str:
        """Return its fingerprint, worked out once."""
        if keeps not in self._prints:
            self._prints[keeps] = fingerprint(self.path, keeps)
        return self._prints[keeps]

    def names(self) -> list[str]:
        """Return the paths of its files, relative to it, in order."""
        return sorted(
            os.path.relpath(os.path.join(directory, name), self.path)
            for directory, _, names in os.walk(self.path)
            for name in names
        )


def small(root: Path, files: int) -> Tree:
    """Make a tree of small files cut from Python's own sources: 11 KB on average, as in a tree of packages."""
    source = _sources()
    chance = random.Random(20)
    total = 0
    for number in range(files):
        module = root / f"package-{number // _PER_PACKAGE:02}" / f"module_{number // _PER_DIRECTORY % 20:02}"
        if number % _PER_DIRECTORY == 0:
            module.mkdir(parents=True)
        size = min(int(chance.lognormvariate(8.35, 1.4)), 300_000, len(source) // 2)
        start = chance.randrange(len(source) - size)
        _write(module / f"source_file_{number:05}.py", source[start : start + size], number)
        total += size
    return Tree(root, files, total)


def large(root: Path, megabytes: int) -> Tree:
    """Make a tree of files of 1 to 64 MB, one half of the bytes text, one half random as archives are."""
    source = _sources()
    chance = random.Random(21)
    root.mkdir(exist_ok=True)
    left, number = megabytes * MEGABYTE, 0
    while left > 0:
        size = min(left, int(MEGABYTE * 2 ** chance.uniform(0, 6)))
        text = source * (size // 2 // len(source) + 1)
        shift = chance.randrange(len(source))
        content = text[shift : shift + size // 2] if shift + size // 2 <= len(text) else text[: size // 2]
        _write(root / f"large_{number:03}.bin", content + chance.randbytes(size - len(content)), number)
        left -= size
        number += 1
    return Tree(root, number, megabytes * MEGABYTE)


def debian(root: Path, cache: Path) -> Tree:
    """Make a minimal Debian by debootstrap, which needs root and a mirror; it is made once and kept in `cache`."""
    kept = cache / f"debian-{DEBIAN}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        making = cache / f"debian-{DEBIAN}.{os.getpid()}"
        try:
            quietly(["debootstrap", "--variant=minbase", DEBIAN, making])
            shutil.rmtree(making / "var/cache/apt/archives", ignore_errors=True)
            making.rename(kept)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    quietly(["cp", "-a", f"{kept}/.", root])
    paths = [os.path.join(directory, name) for directory, _, names in os.walk(root) for name in names]
    return Tree(root, len(paths), sum(os.lstat(path).st_size for path in paths))


def change(tree: Path, count: int, salt: int) -> None:
    """Put `salt` at the start of `count` files of a tree, spread evenly over it. The files become new ones.

    What comes out depends on the tree that was made and on `salt`, not on changes before.
    """
    names = sorted(os.path.join(at, name) for at, _, names in os.walk(tree) for name in names)
    names = [name for name in names if os.path.isfile(name) and not os.path.islink(name)]
    head = f"# {salt:013}\n".encode()
    for name in names[:: max(1, len(names) // count)][:count]:
        content, mode = Path(name).read_bytes(), os.stat(name).st_mode
        os.unlink(name)
        Path(name).write_bytes(head + content[len(head) :])
        os.chmod(name, mode)
        os.utime(name, ns=((MTIME + salt) * SECOND, (MTIME + salt) * SECOND))


def _sources() -> bytes:
    library = Path(sysconfig.get_path("stdlib"))
    return b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))


def _write(path: Path, content: bytes, number: int) -> None:
    """Write a file with an mtime that has nanoseconds, as real ones have."""
    path.write_bytes(content)
    stamp = (MTIME + number) * SECOND + number * 7_919_993 % SECOND
    os.utime(path, ns=(stamp, stamp))
