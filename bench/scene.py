"""Where the benchmarks take place: a scratch directory, the trees in it, the programs of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import trees
from bench.measure import quietly
from bench.model import Missing
from bench.trees import Tree

FLOOR = Path(__file__).resolve().parent / "floor"
PACKAGES = {
    "borg": "borgbackup",
    "cc": "gcc and libc6-dev",
    "ctr": "containerd",
    "containerd": "containerd",
    "nginx": "nginx-light",
    "mke2fs": "e2fsprogs",
}
"""The Debian package of a program, where it has another name."""
_LIBRARIES = {"pack": ("-lzstd", "-lcrypto", "-lpthread"), "unpack": ("-lzstd", "-lcrypto", "-lpthread")}
_SYSTEM_PROGRAMS = ":/usr/sbin:/sbin"


@dataclass(slots=True)
class Scene:
    """One run's directory and what is kept in it from job to job."""

    root: Path
    cache: Path
    cold: bool = False
    """Whether the page cache is emptied before each run."""
    quick: bool = False
    """Whether little work is to be done."""
    _trees: dict[tuple[str, int], Tree] = field(default_factory=dict)
    _number: int = 0

    def tree(self, kind: str, size: int) -> Tree:
        """Return a tree: `small` with so many files, `large` with so many MB, or `debian`."""
        if (kind, size) not in self._trees:
            root = self.fresh(f"tree-{kind}-{size}")
            makers: dict[str, Callable[[], Tree]] = {
                "small": lambda: trees.small(root, size),
                "large": lambda: trees.large(root, size),
                "debian": lambda: trees.debian(root, self.cache),
            }
            if kind == "debian":
                self.need("debootstrap", "root")
            self._trees[kind, size] = makers[kind]()
        return self._trees[kind, size]

    def fresh(self, name: str) -> Path:
        """Return an empty directory of that name."""
        return self.renew(self.root / name)

    def renew(self, path: Path) -> Path:
        """Make an empty directory of `path`, whatever was there, and return it."""
        remove(path)
        path.mkdir(parents=True)
        return path

    def floor(self, name: str) -> Path:
        """Return the program made of `bench/floor/NAME.c`; `Missing` without a C compiler or its libraries."""
        program = self.root / f"floor-{name}"
        if not program.exists():
            self.need("cc")
            libraries = _LIBRARIES.get(name, ())
            try:
                quietly(["cc", "-O2", "-Wall", "-o", program, FLOOR / f"{name}.c", *libraries])
            except Exception as error:
                raise Missing(f"{name}.c does not compile, are libzstd-dev and libssl-dev there? {error}") from error
        return program

    def need(self, *programs: str) -> None:
        """Raise `Missing`, with what to install, if a program (or `root`) is not there."""
        for name in programs:
            if name == "root":
                if os.geteuid() != 0:
                    raise Missing("needs root")
            elif name.startswith("floor:"):
                self.floor(name.removeprefix("floor:"))
            elif which(name) is None:
                raise Missing(f"{name} is not installed (Debian package {PACKAGES.get(name, name)})")

    def before_a_run(self) -> None:
        """Empty the page cache, if asked for."""
        if self.cold:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")

    @contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """Yield an empty directory that is removed afterwards, with whatever is mounted in it."""
        self._number += 1
        path = self.fresh(f"{name}-{self._number}")
        try:
            yield path
        finally:
            unmount_below(path)
            remove(path)


def which(program: str) -> str | None:
    """Return the path of a program, also of those that only root has on its PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + _SYSTEM_PROGRAMS)


def remove(path: Path) -> None:
    """Remove a tree, whatever its modes are."""
    if path.exists():
        quietly(["chmod", "-R", "u+rwX", path]) if os.geteuid() else None
        quietly(["rm", "-rf", "--one-file-system", path])


def unmount_below(path: Path) -> None:
    """Unmount all that is mounted below a directory."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted((one for one in found if one.startswith(f"{path}/")), reverse=True):
        quietly(["umount", "-l", target])


@contextmanager
def open_scene(where: Path, cache: Path, *, ext4: int = 0, cold: bool = False, quick: bool = False) -> Iterator[Scene]:
    """Yield a scene in a temporary directory of `where`, which is removed afterwards.

    With `ext4` it is a journalled file system of its own, of so many GB in a file there, mounted through a loop
    device; that needs root.
    """
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shipway-bench-", dir=where)))
        scene = Scene(root, cache, cold, quick)
        if cold:
            scene.need("root")
        if ext4:
            scene.need("root", "mke2fs")
            image, scene.root = root / "ext4", root / "mounted"
            scene.root.mkdir()
            with image.open("wb") as file:
                file.truncate(ext4 * 10**9)
            quietly(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", image])
            quietly(["mount", "-o", "loop", image, scene.root])
            stack.callback(quietly, ["umount", scene.root])
        stack.callback(_empty, scene.root)
        yield scene


def _empty(root: Path) -> None:
    unmount_below(root)
    for child in root.iterdir():
        if child.is_dir() and child.name != "lost+found":
            remove(child)
