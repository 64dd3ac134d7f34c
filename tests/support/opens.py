"""Which files this process opens, as the interpreter itself tells."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_watching: list[tuple[str, list[str]]] = []
_lock = threading.Lock()
_installed = False


@contextmanager
def opened(prefix: str) -> Iterator[list[str]]:
    """Yield a list that gets the base name of every file, not directory, that is opened meanwhile and begins so."""
    global _installed  # noqa: PLW0603  an audit hook cannot be taken away again, so there is one
    names: list[str] = []
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True
        _watching.append((prefix, names))
    try:
        yield names
    finally:
        _watching.remove((prefix, names))


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, _, flags = arguments
    if isinstance(path, str) and isinstance(flags, int) and not flags & os.O_DIRECTORY:
        name = path.rpartition("/")[2]
        for prefix, names in _watching:
            if name.startswith(prefix):
                names.append(name)
