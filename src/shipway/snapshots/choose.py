"""Choosing a snapshot driver."""

from __future__ import annotations

from pathlib import Path

from shipway.errors import Invalid, Unavailable
from shipway.snapshots.contract import SnapshotDriver
from shipway.snapshots.native import NativeDriver
from shipway.snapshots.overlay import OverlayDriver


def open_driver(name: str, root: Path) -> SnapshotDriver:
    """Return the driver `overlay` or `native` for a store's root, or with `auto` the best that works here.

    Its `reason` says why. Raises `Unavailable` for an `overlay` that cannot be mounted, `Invalid` for another name.
    """
    if name == "native":
        return NativeDriver(root)
    if name == "overlay":
        return OverlayDriver(root)
    if name != "auto":
        raise Invalid(f"no snapshot driver is called {name!r}", todo="use auto, overlay or native")
    try:
        return OverlayDriver(root)
    except Unavailable as error:
        driver = NativeDriver(root)
        driver.reason = f"native: {error.what}"
        return driver
