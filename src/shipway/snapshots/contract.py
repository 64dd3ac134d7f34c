"""The contract of a snapshot driver: trees on disk that can be mounted.

A *snapshot* is one layer's worth of a tree, under a key. A driver keeps no
account of which snapshot stands on which: whoever calls names the whole
*chain* of keys, base first, the snapshot itself last. So a chain can be put
together freely, as merging does.

A snapshot is *active* (made by `prepare`, writable) until `commit`, then
*committed* and never changed again. One that is made from a layer
(`writer`) is committed as soon as it is visible. Keys are short strings of
`[0-9a-z]`, and a driver's snapshots lie in `ROOT/snapshots/KEY`.

A driver is handed entries and contents, not an archive or a directory to fill, so
that one that stores each content once by digest fits the contract as well as
one that keeps plain directories. Drivers are stateless and thread-safe; two
threads or processes never work on the same key at a time (the store's leases see to that).

`tests/snapshots/test_conformance.py` is what every driver must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from shipway.refs import Mount
from shipway.trees.entry import Entry, LocalTree, TreeSink
from shipway.trees.packed import PackedEntries

Chain = Sequence[str]
"""Snapshot keys from the base to the snapshot itself; never empty where one is asked for."""


class SnapshotDriver(Protocol):
    """Keeps snapshots under one store's root directory."""

    name: str
    """`overlay`, `native`, …"""
    reason: str
    """Why this driver was chosen, in a line for people."""
    can_mount: bool
    """Whether `mount_all` on what `mounts` returns works in this process."""
    apart: bool
    """Whether most layers can be written without a look at the snapshots below."""

    def prepare(self, chain: Chain) -> None:
        """Make the active snapshot `chain[-1]`, showing the tree of the committed ones below it."""

    def writer(self, chain: Chain, *, below: Callable[[], Chain] | None = None) -> TreeSink:
        """Return a sink that makes the committed snapshot `chain[-1]` from a layer's entries.

        Whiteouts apply to the tree of the snapshots below. Nothing is at the key until `finish()`.
        With `below`, `chain` is the key alone, and those below are what `below()` returns: it waits
        until they are there, and is called before the first look at them, if there is one.
        """

    def commit(self, key: str) -> None:
        """Make an active snapshot committed, its files flushed; of a committed one does nothing."""

    def is_committed(self, key: str) -> bool:
        """Whether `key` is committed; `NotFound` if there is no such snapshot."""

    def mounts(
        self, chain: Chain, *, readonly: bool, settled: bool = False, moved: Collection[str] = ()
    ) -> list[Mount]:
        """Return the mounts that show the chain's tree; a committed snapshot's are always read-only.

        `settled` says that nobody writes into the snapshot any more, though it is still active (its ref was
        committed, but not finalized): it is shown as a committed one is, by as many processes as like to.
        `moved` are those of the chain that stand over others than they were made over (see `separate`).
        """

    def mounted(
        self, chain: Chain, *, readonly: bool, settled: bool = False, moved: Collection[str] = ()
    ) -> AbstractContextManager[Path]:
        """Return a context manager that yields a directory with the tree and cleans up.

        Several at a time, from several threads, share their data. See `mounts` for `settled` and `moved`.
        """

    def tree(self, chain: Chain) -> AbstractContextManager[LocalTree]:
        """Return the chain's tree to be read without mounting it; descriptors are closed on leaving."""

    def files(self, key: str) -> AbstractContextManager[LocalTree]:
        """Return the files that a committed snapshot itself holds, by their paths in its layer.

        It may hold others too, of the tree below. Only `open` is to be relied on.
        """

    def changes(self, chain: Chain) -> PackedEntries[Entry]:
        """Return what `chain[-1]` changes in the tree below it, as a layer's entries in `path_key` order.

        They are a function of the two trees alone: every driver gives the same. See `trees.diff`.
        Contents are read from `tree(chain)`.
        """

    def separate(self, chain: Chain, changes: Collection[Entry]) -> bool:
        """Make it so that `chain[-1]` can stand over other snapshots, if that can be; return whether it can.

        It then brings just `changes`, those of `chain`. If it holds more than that, it cannot.
        """

    def usage(self, key: str, *, linked: bool = False) -> int:
        """Return the bytes the snapshot takes on disk (blocks, each hard-linked file once).

        With `linked` it was made by linking to the files of others: what has names outside counts nothing.
        """

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is no error."""

    def replace(self, key: str, other: str) -> None:
        """Put the committed snapshot `other`, made over the same ones, in the place of `key`, which is damaged."""

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return what dead processes left under the root that is no snapshot, as paths below it."""

    def keys(self) -> Iterator[str]:
        """Yield the key of every snapshot on disk."""

    def close(self) -> None:
        """Let go of everything: what `mounted` still shows in this process is taken away."""
