"""cachemount: named trees that go on from one use to the next, and between machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cyclopts import App

from shipway.cli import moving, text
from shipway.cli.progress import shown
from shipway.cli.session import InSession

app = App(name="cachemount", help="Cache mounts: named trees that go on from one use to the next.")


@app.command
def ls(*, session: InSession) -> None:
    """List the cache mounts by name."""
    with session.open() as cache:
        records = list(cache.cache_mounts.records())
    documents = [asdict(one) | {"updated": text.iso(one.updated)} for one in records]
    rows = ((one.name, one.id, text.size(one.size), "in-use" if one.in_use else "unused") for one in records)
    session.show(documents, text.table(rows, ("name", "id", "size", "use"), right=["size"]))


@app.command
def mount(name: str, target: Path, /, *, session: InSession) -> None:
    """Mount a cache mount at a directory until `umount`, made if it is new, and print the id of its ref.

    Args:
        name: Its name.
        target: An existing directory.
    """
    with session.open() as cache:
        mounted = cache.mount_cache_at(name, target)
    session.show({"name": name, "id": mounted, "target": str(target.resolve())}, [mounted])


@app.command
def umount(target: Path, /, *, session: InSession) -> None:
    """Unmount a cache mount, which keeps what was written.

    Args:
        target: The directory.
    """
    with session.open() as cache:
        ref_id = cache.unmount_at(target)
    session.show({"id": ref_id, "target": str(target.resolve())}, [ref_id] if ref_id else [])


@app.command
def commit(name: str, /, *, session: InSession) -> None:
    """Make a ref of a cache mount as it is now, and print its id; the cache mount goes on from there.

    Args:
        name: Its name.
    """
    with session.open() as cache, cache.cache_mounts.commit(name) as ref:
        document = {"name": name, "id": ref.id, "size": session.size_of(ref)}
    session.show(document, [ref.id])


@app.command
def push(name: str, reference: str, /, *, session: InSession) -> None:
    """Commit a cache mount and copy it to a registry, bucket or worker.

    Args:
        name: Its name.
        reference: oci://host[:port]/repository[:tag]
    """
    with session.open() as cache, cache.cache_mounts.commit(name) as ref, shown(session) as progress:
        pushed = ref.push(reference, progress=progress)
    moving.show_pushed(session, pushed)


@app.command
def pull(name: str, reference: str, /, *, session: InSession) -> None:
    """Bring an image into the store and make a cache mount go on from it, whatever it held before.

    Args:
        name: Its name.
        reference: oci://host[:port]/repository[:tag][@digest]
    """
    with (
        session.open() as cache,
        cache.remote(reference) as found,
        shown(session) as progress,
        found.pull(progress=progress) as ref,
    ):
        cache.restore(name, ref)
        document = {"name": name, "id": ref.id, "reference": found.id, "size": session.size_of(ref)}
    session.show(document, [ref.id])


@app.command
def rm(name: str, /, *, session: InSession) -> None:
    """Forget a cache mount and what only it kept.

    Args:
        name: Its name.
    """
    with session.open() as cache:
        cache.cache_mounts.remove(name)
    session.show({"removed": name}, [])
