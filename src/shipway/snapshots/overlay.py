"""Snapshots as overlayfs layers: each keeps what it changes, a mount shows the chain.

A snapshot's `fs` is its layer directory; `work`, which overlayfs needs beside a writable layer, is there while it
is active. Trees are read by merging the layer directories, so only showing one needs a mount.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from shipway.errors import Locked, ShipwayError, Unavailable
from shipway.refs import Mount
from shipway.snapshots.contract import Chain
from shipway.snapshots.layout import FILES, WORK, LayerSink, Layout
from shipway.snapshots.mount import Overlay, mount_all
from shipway.snapshots.mountpoints import Mountpoints
from shipway.trees import xattrs
from shipway.trees.diff import layer_changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Entry, TreeSink, parent_of
from shipway.trees.layer_writer import LayerWriter
from shipway.trees.packed import PackedEntries
from shipway.trees.removal import empty_directory, remove_tree
from shipway.trees.stack import OverlayTree
from shipway.trees.writer import TreeWriter

_BASE = "base"
"""Lies beside `fs` in a snapshot that was made over nothing, whose files are therefore its tree."""

_UNDER = "under"
"""Lies beside `fs` in a snapshot with whiteouts that was separated from those it was made over."""

_PARAMETERS = Path("/sys/module/overlay/parameters")
_FEATURES = ("redirect_dir", "metacopy", "index")
"""What would put into a layer more than files, whiteouts and opaque marks."""


@dataclass
class _Shared:
    """The one mount of an active snapshot, and how many use it."""

    path: Path
    users: int = 0


class OverlayDriver:
    """Keeps snapshots as layer directories and shows them with overlayfs.

    Raises `Unavailable`, with the kernel's reason, where that cannot be mounted.
    """

    name = "overlay"
    can_mount = True
    apart = True

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._mountpoints = Mountpoints(self._layout.root)
        try:
            self._options, self.reason = self._probe()
        except BaseException:
            self._mountpoints.close()
            raise
        user = "userxattr" in self._options
        self._mark = xattrs.OPAQUE[1] if user else xattrs.OPAQUE[0]
        self._guard = threading.Lock()
        self._shared: dict[str, _Shared] = {}

    def _probe(self) -> tuple[tuple[str, ...], str]:
        """Mount a tiny overlay; return the options that work here and how it went."""
        features = tuple(f"{name}=off" for name in _FEATURES if _is_on(name))
        attempts = ((*features, "volatile"), features, (*features, "userxattr", "volatile"), (*features, "userxattr"))
        first: ShipwayError | None = None
        for options in attempts:
            try:
                self._try(options)
            except ShipwayError as error:
                first = first or error
            else:
                how = " with userxattr" if "userxattr" in options else ""
                return options, f"overlay: mounting is allowed here{how}"
        assert first is not None
        raise Unavailable(f"overlay cannot be used: {first.what}", todo="use the native driver") from first

    def _try(self, options: tuple[str, ...]) -> None:
        with self._layout.staged("probe") as stage:
            upper, work = stage / "upper", stage / WORK
            upper.mkdir()
            work.mkdir()
            lower = stage / FILES
            (lower / "directory").mkdir()
            (lower / "directory" / "file").touch()
            point = self._mount(Overlay((str(lower),), str(upper), str(work), options))
            try:
                (point / "directory" / "file").unlink()
                (point / "directory").rmdir()
                (point / "directory").mkdir()
            except OSError as error:
                raise Unavailable(f"overlayfs does not work on this file system: {error.strerror}") from error
            finally:
                self._mountpoints.release(point)
            mark = xattrs.OPAQUE["userxattr" in options]
            if xattrs.get(str(upper / "directory"), mark) != b"y":
                raise Unavailable("overlayfs does not keep opaque marks on this file system")

    def prepare(self, chain: Chain) -> None:
        """Make the active snapshot `chain[-1]` over the others; see `SnapshotDriver.prepare`."""
        self._layout.check_parents(chain)
        with self._layout.staged(chain[-1]) as stage:
            (stage / WORK).mkdir(mode=0o700)
            _mark_base(stage, chain)
            with self._below(chain) as lower, LayerWriter(stage / FILES, lambda: lower, mark=self._mark) as writer:
                writer.finish()
            self._layout.publish(stage, chain[-1])

    def writer(self, chain: Chain, *, below: Callable[[], Chain] | None = None) -> TreeSink:
        """Return a sink that makes the committed snapshot `chain[-1]`; see `SnapshotDriver.writer`."""
        self._layout.check_parents(chain)

        def lower() -> OverlayTree | None:
            keys = chain[:-1] if below is None else below()
            self._layout.check_parents([*keys, chain[-1]])
            return OverlayTree(self._layout.files(keys)) if keys else None

        stage = self._layout.stage(chain[-1])
        try:
            if below is None:
                _mark_base(stage, chain)
            return LayerSink(self._layout, chain[-1], stage, LayerWriter(stage / FILES, lower, mark=self._mark))
        except BaseException:
            self._layout.discard(stage)
            raise

    def commit(self, key: str) -> None:
        """Make an active snapshot committed; see `SnapshotDriver.commit`."""
        self._layout.commit(key)

    def is_committed(self, key: str) -> bool:
        """Whether `key` is committed; `NotFound` if there is no such snapshot."""
        return self._layout.is_committed(key)

    def mounts(
        self, chain: Chain, *, readonly: bool, settled: bool = False, moved: Collection[str] = ()
    ) -> list[Mount]:
        """Return the mounts that show the chain's tree; see `SnapshotDriver.mounts`."""
        settled = settled or self.is_committed(chain[-1])
        if not settled:
            self._take_over(chain)
        self._layout.files(chain)
        one = self._view(chain, moved, readonly=readonly, settled=settled, volatile=False)
        return [one.as_mount() if isinstance(one, Overlay) else one]

    def _view(
        self, chain: Chain, moved: Collection[str], *, readonly: bool, settled: bool, volatile: bool
    ) -> Mount | Overlay:
        """Return what to mount; whether its directories are there is left to the mount."""
        layers = self._layers(chain, moved)
        readonly = readonly or settled
        home = f"{self._layout.snapshots}/"
        if len(layers) == 1:
            if os.access(f"{home}{chain[-1]}/{_BASE}", os.F_OK):
                return Mount("bind", home + layers[0], options=("bind", "ro" if readonly else "rw"))
            layers.insert(0, self._empty())  # a layer may hold whiteouts, which only overlayfs hides
        options = tuple(one for one in self._options if one != "volatile" or volatile)
        if settled:
            return Overlay(tuple(layers), "", "", options, readonly=True, directory=home[:-1])
        *lower, upper = layers
        work = f"{chain[-1]}/{WORK}"
        return Overlay(tuple(lower), upper, work, options, readonly=readonly, directory=home[:-1])

    def _layers(self, chain: Chain, moved: Collection[str]) -> list[str]:
        """Return the names below `snapshots` of the directories to mount, base first."""
        names = self._layout.names(chain)
        if not moved:
            return names
        layers = []
        for key, name in zip(chain, names, strict=True):
            under = f"{key}/{_UNDER}"
            if key in moved and os.path.isdir(f"{self._layout.snapshots}/{under}"):
                layers.append(under)
            layers.append(name)
        return layers

    def _empty(self) -> str:
        """Return an empty directory to put a single layer on."""
        path = self._layout.root / "empty"
        path.mkdir(mode=0o755, exist_ok=True)
        return str(path)

    def mounted(
        self, chain: Chain, *, readonly: bool, settled: bool = False, moved: Collection[str] = ()
    ) -> AbstractContextManager[Path]:
        """Return a context manager that shows the chain's tree; see `SnapshotDriver.mounted`.

        What still uses a mount when the block ends sees it until it stops; for a
        writable one that is an error, `Locked`, since it may go on writing.
        """
        if settled or self.is_committed(chain[-1]):
            return self._shown(self._view(chain, moved, readonly=True, settled=True, volatile=False), chain)
        return self._shown_active(chain, moved, readonly=readonly)

    @contextmanager
    def _shown(self, view: Mount | Overlay, chain: Chain) -> Iterator[Path]:
        point = self._mount(view, chain)
        try:
            yield point
        finally:
            self._mountpoints.release(point)

    @contextmanager
    def _shown_active(self, chain: Chain, moved: Collection[str], *, readonly: bool) -> Iterator[Path]:
        """Show an active snapshot by its one mount: two overlays must never share a writable layer."""
        path = self._acquire(chain, moved)
        try:
            if readonly:
                with self._shown(Mount("bind", str(path), options=("bind", "ro")), chain) as point:
                    yield point
            else:
                yield path
        except BaseException:
            self._release(chain)
            raise
        if self._release(chain):
            raise Locked("something still uses the mount, which may go on writing", where=chain[-1])

    def _acquire(self, chain: Chain, moved: Collection[str]) -> Path:
        with self._guard:
            shared = self._shared.get(chain[-1])
            if shared is None:
                self._take_over(chain)
                view = self._view(chain, moved, readonly=False, settled=False, volatile=True)
                shared = self._shared[chain[-1]] = _Shared(self._mount(view, chain))
            shared.users += 1
            return shared.path

    def _release(self, chain: Chain) -> bool:
        with self._guard:
            shared = self._shared[chain[-1]]
            shared.users -= 1
            if shared.users:
                return False
            del self._shared[chain[-1]]
            busy = self._mountpoints.release(shared.path)
            self._reset_work(chain)
            return busy

    def _mount(self, view: Mount | Overlay, chain: Chain = ()) -> Path:
        """Mount a view of a chain at a new place; `NotFound` names a snapshot of the chain that is missing.

        The mount itself finds out that one is: only then is it looked for which.
        """
        point = self._mountpoints.new()
        try:
            mount_all([view], point)
        except BaseException as error:
            self._mountpoints.give_up(point)
            if chain and isinstance(error, ShipwayError):
                self._layout.files(chain)
            raise
        return point

    def _take_over(self, chain: Chain) -> None:
        """Make an active snapshot ready to be mounted, whose last holder may have died with it mounted.

        Two overlays must never share a writable layer.
        """
        self._mountpoints.reclaim()
        self._reset_work(chain)

    def _reset_work(self, chain: Chain) -> None:
        """Remove the mark of a volatile mount, which keeps the next one from being made."""
        if chain[-1] in self._shared:
            return
        with suppress(FileNotFoundError):
            fd = os.open(self._layout.path(chain[-1]) / WORK / "work", os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_tree(fd, "incompat")
            finally:
                os.close(fd)

    @contextmanager
    def tree(self, chain: Chain) -> Iterator[OverlayTree]:
        """Return the chain's tree to be read without mounting it."""
        with OverlayTree(self._layout.files(chain)) as tree:
            yield tree

    @contextmanager
    def _below(self, chain: Chain) -> Iterator[OverlayTree | None]:
        if len(chain) == 1:
            yield None
            return
        with self.tree(chain[:-1]) as tree:
            yield tree

    @contextmanager
    def files(self, key: str) -> Iterator[DirectoryTree]:
        """Return the files that a snapshot itself holds; see `SnapshotDriver.files`."""
        with DirectoryTree(self._layout.files([key])[0]) as tree:
            yield tree

    def changes(self, chain: Chain) -> PackedEntries[Entry]:
        """Return what `chain[-1]` changes in the tree below it; see `SnapshotDriver.changes`."""
        with self._below(chain) as lower, self.tree(chain) as upper:
            return layer_changes(lower, upper)

    def separate(self, chain: Chain, changes: Collection[Entry]) -> bool:
        """Return whether the layer directory holds no copies of what did not change, nor marks that others mind.

        overlayfs shows whiteouts in the listing of a directory that no layer below has. So the
        directories that hold some are made once more, to be mounted right below the layer.
        """
        with self.tree(chain) as tree:
            if any(held != said for held, said in zip_longest(_outline(tree.top_layer()), _outline(changes))):
                return False
        places = {parent_of(entry.path) for entry in changes if entry.kind == "whiteout"} - {""}
        under = self._layout.path(chain[-1]) / _UNDER
        if places and not under.exists():
            with self._layout.staged(chain[-1]) as stage:
                with TreeWriter(stage / FILES) as writer:
                    for place in sorted(places):
                        writer.add(Entry(path=place, kind="dir", mode=0o755))
                    writer.finish()
                (stage / FILES).rename(under)
        return True

    def usage(self, key: str, *, linked: bool = False) -> int:
        """Return the bytes the snapshot takes on disk; see `SnapshotDriver.usage`."""
        return self._layout.usage(key, linked=linked)

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is no error."""
        self._layout.remove(key)

    def replace(self, key: str, other: str) -> None:
        """Put one snapshot in the place of another; see `SnapshotDriver.replace`."""
        self._layout.replace(key, other)

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return what dead processes left mounted, and what is in the directory that is to be empty."""
        found = self._mountpoints.leftovers(remove=remove)
        with suppress(FileNotFoundError):
            fd = os.open(self._layout.root / "empty", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found += [f"empty/{name}" for name in sorted(os.listdir(fd))]
                if remove:
                    empty_directory(fd)
            finally:
                os.close(fd)
        return found

    def close(self) -> None:
        """Take away what is still mounted; see `SnapshotDriver.close`."""
        self._mountpoints.close()

    def keys(self) -> Iterator[str]:
        """Yield the key of every snapshot on disk."""
        return self._layout.keys()


def _outline(entries: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    """Yield the path of each entry but the root, and what kind of thing is there."""
    for entry in entries:
        if entry.path or entry.kind != "dir":
            yield entry.path, "reg" if entry.kind == "hardlink" else entry.kind


def _is_on(parameter: str) -> bool:
    try:
        return (_PARAMETERS / parameter).read_text().strip() in ("Y", "1", "on")
    except OSError:
        return False


def _mark_base(stage: Path, chain: Chain) -> None:
    if len(chain) == 1:
        (stage / _BASE).touch()
