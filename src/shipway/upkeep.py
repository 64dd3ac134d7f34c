"""The pruning that nobody asks for: the policies of the configuration, applied in the background.

It is looked at after each commit and, by a server, every few seconds. When it is next due stands in the
store, so that of all processes one does it, and a commit pays for one look at one row. A run that took long
makes the next one wait longer: pruning never takes more than a twentieth of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shipway.config import PrunePolicy
from shipway.errors import ShipwayError
from shipway.local.pruning import prune
from shipway.local.store import Store

EVERY_SECONDS = 60.0
"""How long it is from one run to the next at least."""
LOOK_SECONDS = 5.0
"""How often a server looks whether a run is due."""
_SHARE = 20
_SECOND = 10**9


class Upkeep:
    """Applies policies to one store."""

    def __init__(self, store: Store, policies: Sequence[PrunePolicy]) -> None:
        """Prune `store` as `policies` say, one after the other; without any nothing is ever done."""
        self._store = store
        self._policies = policies
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if policies:
            store.after_commit = self.look

    def look(self) -> None:
        """Start a run in a thread if one is due and none is under way; return at once, whatever goes wrong."""
        try:
            with self._lock:
                if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()) or not self._claim():
                    return
                thread = threading.Thread(target=self._run, name="shipway-upkeep", daemon=True)
                thread.start()
                self._thread = thread
        except (ShipwayError, RuntimeError) as error:  # the latter of a system that gives no thread
            _say(error)

    @contextmanager
    def regularly(self) -> Iterator[None]:
        """Look every few seconds for as long as the block lasts."""
        ended = threading.Event()

        def looking() -> None:
            while not ended.is_set():
                self.look()
                ended.wait(LOOK_SECONDS)

        thread = threading.Thread(target=looking, name="shipway-upkeep-clock", daemon=True)
        if self._policies:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._policies:
                thread.join()

    def close(self) -> None:
        """Wait for the run that is under way, if any: a program that commits and ends prunes too.

        Interrupted, it has the run end after what it is removing.
        """
        thread = self._thread
        if thread is None:
            return
        try:
            thread.join()
        finally:
            self._stop.set()
            thread.join()

    def _claim(self) -> bool:
        """Whether a run is due; it is this process's then."""
        now = time.time_ns()
        if not _is_due(self._store.database.read("SELECT value FROM settings WHERE name = 'prune_due'"), now):
            return False
        with self._store.database.write() as db:  # once more, now that nobody else can
            if not _is_due(db.execute("SELECT value FROM settings WHERE name = 'prune_due'").fetchall(), now):
                return False
            self._set_due(EVERY_SECONDS)
        return True

    def _set_due(self, seconds: float) -> None:
        """Make the next run due in so many seconds."""
        with self._store.database.write() as db:
            db.execute(
                "INSERT INTO settings VALUES ('prune_due', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(time.time_ns() + int(seconds * _SECOND)),),
            )

    def _run(self) -> None:
        start = time.monotonic()
        try:
            for policy in self._policies:
                prune(self._store, policy.options(self._store.root), stopped=self._stop.is_set)
            self._set_due(max(EVERY_SECONDS, (time.monotonic() - start) * _SHARE))
        except (ShipwayError, OSError) as error:
            _say(error)


def _is_due(rows: Sequence[tuple[str]], now: int) -> bool:
    """Whether the moment in a row has come; one that is far off was written by a clock that was wrong."""
    return not rows or not now < int(rows[0][0]) < now + 86400 * _SECOND


def _say(error: Exception) -> None:
    logging.getLogger("shipway").warning("the background prune failed: %s", error)
