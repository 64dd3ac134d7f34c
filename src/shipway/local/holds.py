"""Holds: why a record is not to be removed. An open ref of a living process is one, and so is a mount.

What is written here joins the transaction that is open, so that `Records` can do a thing and hold it at once.
"""

from __future__ import annotations

from shipway.local.database import Database
from shipway.local.leases import Leases
from shipway.snapshots.mount import is_mountpoint

IN_USE = (
    "WITH RECURSIVE used (id) AS (SELECT record FROM holds UNION SELECT record FROM mounts"
    " UNION SELECT parents.parent FROM parents JOIN used ON parents.record = used.id) SELECT id FROM used"
)
"""The ids of all records that are held, or stand below one that is."""


class Holds:
    """The holds on the records of one store, seen by one instance."""

    def __init__(self, database: Database, leases: Leases) -> None:
        """Work on `database`; `leases` says who this instance is and who is alive."""
        self._database = database
        self._leases = leases

    def take(self, record_id: str) -> None:
        """Take one more hold."""
        with self._database.write() as db:
            db.execute(
                "INSERT INTO holds VALUES (?, ?, 1) ON CONFLICT (record, instance) DO UPDATE SET count = count + 1",
                (record_id, self._leases.instance),
            )

    def let_go(self, record_id: str) -> None:
        """Let go of one hold; see `Records.release` for what else that means for one of a user's."""
        with self._database.write() as db:
            mine = (record_id, self._leases.instance)
            db.execute("UPDATE holds SET count = count - 1 WHERE record = ? AND instance = ?", mine)
            db.execute("DELETE FROM holds WHERE record = ? AND instance = ? AND count <= 0", mine)

    def let_go_of_all(self, instance: str) -> list[str]:
        """Let go of everything that `instance` holds; return the records it held."""
        with self._database.write() as db:
            held = db.execute("SELECT record FROM holds WHERE instance = ?", (instance,)).fetchall()
            db.execute("DELETE FROM holds WHERE instance = ?", (instance,))
        return [record_id for (record_id,) in held]

    def pass_on(self, record_id: str, successor: str) -> None:
        """Hold `successor` instead of a record, which nobody holds then."""
        with self._database.write() as db:
            db.execute("DELETE FROM holds WHERE record = ?", (record_id,))
            self.take(successor)

    def own(self, record_id: str) -> int:
        """Return how many holds this instance has on a record."""
        query = "SELECT count FROM holds WHERE record = ? AND instance = ?"
        return sum(count for (count,) in self._database.read(query, record_id, self._leases.instance))

    def is_held(self, record_id: str, *, by_others: bool = False) -> bool:
        """Whether any living process holds the record itself, or with `by_others` any but this; or it is mounted."""
        but = self._leases.instance if by_others else ""
        with self._database.write() as db:
            query = "SELECT instance FROM holds WHERE record = ? AND instance <> ?"
            holders = db.execute(query, (record_id, but)).fetchall()
            targets = db.execute("SELECT target FROM mounts WHERE record = ?", (record_id,)).fetchall()
            return any(self._leases.is_alive(one) for (one,) in holders) or any(
                is_mountpoint(one) for (one,) in targets
            )

    def in_use(self) -> set[str]:
        """Return the ids of all records that are held, or stand below one that is. Call `Store.reclaim` first."""
        with self._database.write() as db:
            return {record_id for (record_id,) in db.execute(IN_USE)}

    # Mounts that outlive us

    def add_mount(self, target: str, record_id: str) -> None:
        """Remember that the record is mounted at `target` for longer than this process lives."""
        with self._database.write() as db:
            db.execute("INSERT OR REPLACE INTO mounts VALUES (?, ?)", (target, record_id))

    def mounts(self) -> list[tuple[str, str]]:
        """Return (target, record id) of all such mounts."""
        return [(target, record) for target, record in self._database.read("SELECT target, record FROM mounts")]

    def stale_mounts(self) -> list[str]:
        """Return the targets of such mounts that are not there any more."""
        return [target for target, _ in self.mounts() if not is_mountpoint(target)]

    def take_mount(self, target: str) -> str | None:
        """Forget the mount at `target` and hold its record ourselves instead; return the record's id."""
        with self._database.write() as db:
            row = db.execute("SELECT record FROM mounts WHERE target = ?", (target,)).fetchone()
            if row is None:
                return None
            db.execute("DELETE FROM mounts WHERE target = ?", (target,))
            self.take(row[0])
            return str(row[0])

    def forget_stale_mounts(self) -> list[str]:
        """Forget the mounts that are not there any more; return the records that they held."""
        with self._database.write() as db:
            stale = [(target, record_id) for target, record_id in self.mounts() if not is_mountpoint(target)]
            db.executemany("DELETE FROM mounts WHERE target = ?", [(target,) for target, _ in stale])
        return [record_id for _, record_id in stale]
