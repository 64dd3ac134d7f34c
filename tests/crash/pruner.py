"""Prunes all of a store, and dies on the way. The test runs this as a program: ROOT DRIVER EVENT.

Events are statements of the database and what Python is about to ask of the system, so death comes inside transactions
and between them and the removal of files. If it gets done it prints how many there were.
"""

from __future__ import annotations

import os
import signal
import sys

from shipway import Cache


def main() -> None:
    root, driver, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    events, armed = 0, False

    def happen() -> None:
        nonlocal events
        events += armed
        if armed and events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, _arguments: object) -> None:
        if event.startswith(("open", "os.", "fcntl.")) and event != "os.kill":
            happen()

    sys.addaudithook(audit)
    with Cache.open(root, driver=driver) as cache:
        cache.store.database._connection.set_trace_callback(lambda _: happen())
        armed = True
        list(cache.prune())
        armed = False
    sys.stdout.write(f"{events}\n")


if __name__ == "__main__":
    main()
