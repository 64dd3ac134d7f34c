"""Random small trees, to state laws about: same names and metadata often, so that trees collide."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

_NAMES = ("a", "b", "c")
_TIMES = (1_000_000_000_000_000_000, 1_000_000_000_000_000_001)


@dataclass(frozen=True)
class Node:
    """A file, directory, symlink or fifo of a random tree; `same_as` makes it another name of an earlier file."""

    kind: str
    content: bytes = b""
    mode: int = 0o644
    mtime_ns: int = 0
    note: bytes = b""
    children: tuple[tuple[str, Node], ...] = ()
    same_as: int | None = None


def _nodes(depth: int) -> st.SearchStrategy[Node]:
    files = st.builds(
        Node,
        kind=st.just("file"),
        content=st.sampled_from((b"", b"one", b"two")),
        mode=st.sampled_from((0o644, 0o755)),
        mtime_ns=st.sampled_from(_TIMES),
        note=st.sampled_from((b"", b"", b"x")),
        same_as=st.one_of(st.none(), st.none(), st.integers(0, 3)),
    )
    others = st.builds(
        Node,
        kind=st.sampled_from(("symlink", "fifo")),
        content=st.sampled_from((b"a", b"../b")),
        mtime_ns=st.sampled_from(_TIMES),
    )
    if not depth:
        return st.one_of(files, files, others)
    return st.one_of(files, files, others, _directories(depth))


def _directories(depth: int) -> st.SearchStrategy[Node]:
    children = st.dictionaries(st.sampled_from(_NAMES), _nodes(depth - 1), max_size=3)
    return st.builds(
        Node,
        kind=st.just("dir"),
        mode=st.sampled_from((0o755, 0o700)),
        mtime_ns=st.sampled_from(_TIMES),
        children=children.map(lambda found: tuple(sorted(found.items()))),
    )


TREES = _directories(3)


def make(root: Path, tree: Node) -> Path:
    """Make a random tree at `root`, in place of whatever is there; return `root`."""
    if root.exists():
        shutil.rmtree(root)
    _make(root, tree, [])
    return root


def _make(path: Path, node: Node, files: list[Path]) -> None:
    if node.kind == "dir":
        path.mkdir()
        for name, child in node.children:
            _make(path / name, child, files)
        path.chmod(node.mode)
    elif node.kind == "symlink":
        path.symlink_to(node.content.decode())
    elif node.kind == "fifo":
        os.mkfifo(path, 0o600)
    elif node.same_as is not None and node.same_as < len(files):
        os.link(files[node.same_as], path)
        return
    else:
        path.write_bytes(node.content)
        path.chmod(node.mode)
        if node.note:
            os.setxattr(path, "user.note", node.note)
        files.append(path)
    os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
