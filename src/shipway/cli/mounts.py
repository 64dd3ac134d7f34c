"""mount, umount: trees as directories, beyond the end of the program."""

from __future__ import annotations

from pathlib import Path

from shipway.cli import naming, text
from shipway.cli.session import InSession
from shipway.errors import Invalid


def mount(ref: str | None = None, target: Path | None = None, /, *, writable: bool = False, session: InSession) -> None:
    """Mount a ref at a directory until `umount`; without arguments, list what is mounted.

    Args:
        ref: An id, a unique prefix of one, or key:NAME.
        target: An existing directory.
        writable: Mount a new mutable ref over it, which `umount --commit` makes a ref of.
    """
    if ref is not None and target is None:
        raise Invalid("TARGET is missing", where="mount", todo="write `shipway mount REF TARGET`")
    with session.open() as cache:
        if ref is None or target is None:
            mounts = sorted(cache.mounts())
            documents = [{"id": ref_id, "target": where} for where, ref_id in mounts]
            session.show(documents, text.table(((ref_id, where) for where, ref_id in mounts), ("id", "target")))
            return
        mounted = cache.mount_at(naming.record_id(cache, ref), target, writable=writable)
    session.show({"id": mounted, "target": str(target.resolve()), "writable": writable}, [mounted])


def umount(target: Path, /, *, commit: bool = False, session: InSession) -> None:
    """Unmount what `mount` mounted, and print the ref's id.

    Args:
        target: The directory.
        commit: Make an immutable ref of what was changed, and print its id.
    """
    with session.open() as cache:
        ref_id = cache.unmount_at(target, commit=commit)
    session.show({"id": ref_id, "target": str(target.resolve()), "committed": commit}, [ref_id] if ref_id else [])
