"""Shipway's command line, where a job needs something done that is not measured."""

from __future__ import annotations

import json
from pathlib import Path

from bench.fingerprint import Keeps, same
from bench.measure import quietly, shipway
from bench.scene import Scene
from bench.trees import Tree


def commit(root: Path, tree: Path, parent: str | None = None) -> str:
    """Make a ref of a directory in the store at `root`; return its id."""
    options = ["--parent", parent] if parent else []
    return str(json.loads(quietly([*shipway(root, "--json"), "commit", tree, *options]))["id"])


def push(root: Path, ref: str, reference: str, compression: str | None = None) -> None:
    """Push a ref, in the default form or in another."""
    options = ["--compression", compression, "--force"] if compression else []
    quietly(shipway(root, "push", ref, reference, *options))


def prune(root: Path, *refs: str) -> None:
    """Remove some refs, or all that can be removed."""
    quietly(shipway(root, "prune", *refs))


def check_ref(scene: Scene, root: Path, ref: str, tree: Tree | str, keeps: Keeps) -> None:
    """Raise `WrongResult` unless a ref has the tree, or one of that fingerprint."""
    with scene.room("check") as target:
        quietly(shipway(root, "extract", ref, target))
        same(tree if isinstance(tree, str) else tree.fingerprint(keeps), target, keeps)
