"""config: what is in force."""

from __future__ import annotations

from shipway.cli import text
from shipway.cli.session import InSession


def config(*, session: InSession) -> None:
    """Show the configuration that is in force, and where each value comes from."""
    in_force = session.in_force()
    listed = list(in_force.listed())
    document = {
        "file": str(in_force.file) if in_force.file else None,
        "values": [{"key": key, "value": value, "from": origin} for key, value, origin in listed],
    }
    rows = ((key, _shown(value), origin) for key, value, origin in listed)
    session.show(document, text.table(rows, ("key", "value", "from")))


def _shown(value: object) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) or "-" if isinstance(value, list | tuple) else str(value)
