"""Programs that keep trees in a store of their own: how each is made, saves a tree, and gives it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.fingerprint import ALL, NO_TIMES, WHOLE_SECONDS, Keeps, same
from bench.measure import command, pipeline, quietly
from bench.model import Sample, Side
from bench.scene import Scene
from bench.trees import Tree

GZIPPED = "tar -c -S -C $1 . | tee $2/tar.fifo | gzip | tee $2/blob.fifo > $2/blob; wait"
ZSTD = "tar -c -S -C $1 . | tee $2/tar.fifo | zstd -q -3 -T2 | tee $2/blob.fifo > $2/blob; wait"
_HASHED = "mkfifo $2/tar.fifo $2/blob.fifo; sha256sum < $2/tar.fifo > $2/diff & sha256sum < $2/blob.fifo > $2/digest & "
"""Digests of the archive and of the blob, by pipes; named ones, since bash does not wait for those it makes itself."""


@dataclass(frozen=True, slots=True)
class Archiver:
    """One program with one set of options. Stores are empty directories at first."""

    name: str
    needs: tuple[str, ...]
    make: Callable[[Path], object]
    save: Callable[[Path, Path], Sample]
    """Saves a tree (first) in a store (second)."""
    restore: Callable[[Path, Path], Sample]
    """Writes what was saved last in a store (first) to an empty directory (second)."""
    keeps: Keeps = ALL
    inside: str = "."
    """Where in that directory the tree is then."""
    slow: bool = False
    """Whether it takes most of a second whatever there is to do; a quick run leaves it out."""


def chosen(scene: Scene, *archivers: Archiver) -> list[Archiver]:
    """Return those that take part in a run."""
    return [one for one in archivers if not (one.slow and scene.quick)]


def tar(compressor: str) -> Archiver:
    """GNU tar with `zstd` or `gzip`, and sha256sum of both the archive and the blob."""
    script = ZSTD if compressor == "zstd" else GZIPPED
    return Archiver(
        f"tar | {compressor}" + (" -3 -T2" if compressor == "zstd" else ""),
        ("tar", compressor, "sha256sum"),
        lambda _store: None,
        lambda tree, store: pipeline(f"rm -f $2/*; {_HASHED}{script}", tree, store),
        lambda store, target: command(["tar", "-x", f"--{compressor}", "-f", store / "blob", "-C", target]),
        WHOLE_SECONDS,
    )


def casync() -> Archiver:
    """Chunks by content, in zstd."""
    return Archiver(
        "casync",
        ("casync",),
        lambda _store: None,
        lambda tree, store: command(["casync", "make", f"--store={store}/chunks", store / "tree.caidx", tree]),
        lambda store, target: command(["casync", "extract", f"--store={store}/chunks", store / "tree.caidx", target]),
    )


def restic(*, compress: bool) -> Archiver:
    """Chunks by content, encrypted."""
    env = {"RESTIC_PASSWORD": "benchmark", "RESTIC_COMPRESSION": "auto" if compress else "off"}

    def run(store: Path, *words: str | Path, cwd: Path | None = None) -> Sample:
        return command(["restic", "-q", "-r", store / "repo", "--cache-dir", store / "cache", *words], env=env, cwd=cwd)

    return Archiver(
        "restic" if compress else "restic, uncompressed",
        ("restic",),
        lambda store: run(store, "init", "--repository-version", "2"),
        lambda tree, store: run(store, "backup", ".", cwd=tree),
        lambda store, target: run(store, "restore", "latest", "--target", target),
        slow=True,
    )


def borg(*, compress: bool) -> Archiver:
    """Chunks by content."""

    def run(store: Path, *words: str, cwd: Path | None = None) -> Sample:
        env = {"BORG_BASE_DIR": str(store), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        return command(["borg", *words], env=env, cwd=cwd)

    def save(tree: Path, store: Path) -> Sample:
        number = len(list(store.glob("saved-*")))
        (store / f"saved-{number}").touch()
        way = "zstd,3" if compress else "none"
        return run(store, "create", "-C", way, f"{store}/repo::{number}", ".", cwd=tree)

    def restore(store: Path, target: Path) -> Sample:
        number = len(list(store.glob("saved-*"))) - 1
        return run(store, "extract", f"{store}/repo::{number}", cwd=target)

    return Archiver(
        "borg" if compress else "borg, uncompressed",
        ("borg",),
        lambda store: run(store, "init", "-e", "none", f"{store}/repo"),
        save,
        restore,
        slow=True,
    )


def ostree(*, compress: bool) -> Archiver:
    """Files by content; mtimes are not kept."""
    mode = "archive" if compress else "bare"
    return Archiver(
        f"ostree, {mode}",
        ("ostree",),
        lambda store: quietly(["ostree", "init", f"--repo={store}/repo", f"--mode={mode}"]),
        lambda tree, store: command(["ostree", "commit", f"--repo={store}/repo", "-b", "main", f"--tree=dir={tree}"]),
        lambda store, target: command(["ostree", "checkout", f"--repo={store}/repo", "main", target / "out"]),
        NO_TIMES,
        "out",
    )


def umoci() -> Archiver:
    """An OCI image with the tree as one gzip layer."""

    def make(store: Path) -> None:
        quietly(["umoci", "init", "--layout", store / "layout"])
        quietly(["umoci", "new", "--image", f"{store}/layout:main"])

    return Archiver(
        "umoci",
        ("umoci",),
        make,
        lambda tree, store: command(["umoci", "insert", "--image", f"{store}/layout:main", tree, "/"]),
        lambda store, target: command(["umoci", "unpack", "--image", f"{store}/layout:main", target / "bundle"]),
        NO_TIMES,  # it rounds them
        "bundle/rootfs",
    )


def rsync() -> Archiver:
    """A plain copy."""
    return Archiver(
        "rsync -a",
        ("rsync",),
        lambda _store: None,
        lambda tree, store: command(["rsync", "-aHX", "--delete", f"{tree}/", f"{store}/tree/"]),
        lambda store, target: command(["rsync", "-aHX", f"{store}/tree/", f"{target}/"]),
    )


def saving(one: Archiver, tree: Tree, room: Path, scene: Scene) -> Side:
    """Return the side in which a program saves a tree in a store that is new each time."""
    store = room / one.name.replace(" ", "_").replace("|", "+")

    def before() -> None:
        scene.renew(store)
        one.make(store)

    def check() -> None:
        with scene.room("check") as target:
            one.restore(store, target)
            same(tree.fingerprint(one.keeps), target / one.inside, one.keeps)

    return Side(one.name, "peer", lambda: one.save(tree.path, store), before, check, one.needs)


def restoring(one: Archiver, tree: Tree, room: Path, scene: Scene) -> Side:
    """Return the side in which a program writes a tree out that it saved before."""
    store, target = room / one.name.replace(" ", "_").replace("|", "+"), room / "target"

    def before() -> None:
        if not store.exists():
            scene.renew(store)
            one.make(store)
            one.save(tree.path, store)
        scene.renew(target)

    def check() -> None:
        same(tree.fingerprint(one.keeps), target / one.inside, one.keeps)

    return Side(one.name, "peer", lambda: one.restore(store, target), before, check, one.needs)
