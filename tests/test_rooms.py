"""The rooms of the package know each other in one direction only."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "shipway"

# From the top down. A room may import from those on later lines and from its own line.
ROOMS = [
    {"__main__"},
    {"cli"},
    {"demo"},
    {"server"},
    {"fsspec"},
    {"__init__"},
    {"naming"},
    {"cache"},
    {"keys"},
    {"elsewhere", "explaining", "combining", "cachemounts", "mounting", "upkeep"},
    {"remote_handles"},
    {"handles", "importing"},
    {"boundary"},
    {"reading"},
    {"transfer"},
    {"remotes"},
    {"config"},
    {"local"},
    {"snapshots"},
    {"layers"},
    {"trees"},
    {"settings"},
    {"references"},
    {"oci"},
    {"refs"},
    {"values"},
    {"explanations"},
    {"progress"},
    {"quantities", "limits", "stopping"},
    {"errors"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "shipway":
                rooms.add(parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__")
    return rooms


def test_upper_rooms_import_lower_ones_and_never_the_reverse() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        room = relative.parts[0].removesuffix(".py")
        assert room in LEVEL, f"{room} is not in the list of rooms"
        wrong += [f"{relative} imports {other}" for other in imported_rooms(path) if LEVEL[other] < LEVEL[room]]
    assert wrong == []
