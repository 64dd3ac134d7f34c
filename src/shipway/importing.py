"""Bringing a directory of this machine into the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shipway.errors import Invalid, NotFound, SizeMismatch, Truncated, Unavailable
from shipway.local.rows import NewRecord, Record
from shipway.local.store import Store
from shipway.progress import Progress, ProgressCallback
from shipway.trees.copying import copy_entries
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree


def import_tree(
    store: Store, path: Path, parent: Record | None, new: NewRecord, progress: ProgressCallback | None
) -> Record:
    """Return a held record whose tree is exactly the directory `path`.

    With a finalized `parent` only the differences are stored. Contents are cloned where the file
    system can, else copied. Raises `NotFound`, `Invalid`, `Truncated` or `SizeMismatch` for a file that
    changes meanwhile, `Unavailable` for one that may not be read, `NoSpace`; the store is then as it was.
    """
    with _readable(path), ExitStack() as stack:
        source = stack.enter_context(_open(path))
        below = stack.enter_context(store.tree(parent)) if parent is not None else None
        entries = changes(below, source)
        total = entries.size
        chain = store.snapshot_chain(parent) if parent is not None else []
        key = store.records.reserve_snapshot()
        stack.enter_context(store.giving_up(key))
        done = 0

        def written(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(Progress("import", str(path), done, total))

        written(0)
        with store.driver.writer([*chain, key]) as sink:
            with _unchanged(path):
                copy_entries(entries, source, sink, written=written)
            sink.finish()
        record = store.records.add(new, mutable=False, snapshot=key, parents=[parent.id] if parent is not None else [])
    store.after_commit()
    return record


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the system refuses to read into `Unavailable`, naming it."""
    try:
        yield
    except OSError as error:
        name = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, (str, bytes)) else ""
        raise Unavailable(
            f"cannot read{name}: {error.strerror}", where=str(path), todo="is it yours to read?"
        ) from error


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """Say of a file that was no longer as long as it had been that it changed, and what to do."""
    try:
        yield
    except (Truncated, SizeMismatch) as error:
        how = "shrank" if isinstance(error, Truncated) else "grew"
        raise type(error)(
            f"the file {how} while it was read",
            where=str(path / error.where.lstrip("/")),
            todo="try again when nothing writes there, or from a copy",
        ) from error


def _open(path: Path) -> DirectoryTree:
    try:
        return DirectoryTree(path)
    except FileNotFoundError as error:
        raise NotFound("no such directory", where=str(path)) from error
    except NotADirectoryError as error:
        raise Invalid("not a directory", where=str(path), todo="name the directory that holds it") from error
