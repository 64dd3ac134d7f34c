"""key put, key get, key ls: cache keys."""

from __future__ import annotations

from cyclopts import App

from shipway.cli import naming, text
from shipway.cli.session import InSession
from shipway.refs import RemoteImmutableRef

app = App(name="key", help="Give refs cache keys, and look them up.", version_flags=())


@app.command
def put(key: str, ref: str, /, *, push: str | None = None, if_absent: bool = False, session: InSession) -> None:
    """Make a key name a ref; the last one to put wins, or with --if-absent the first.

    Args:
        key: Any string.
        ref: An id, a unique prefix of one, or key:NAME.
        push: Where others can look the key up: oci://host[:port]/repository, s3://bucket/prefix, oci-layout:///dir, …
        if_absent: Change nothing if the key is there already, at the bucket or layout to push to or else in this store.
    """
    with session.open() as cache, naming.local_ref(cache, ref) as local:
        cache.put(key, local, push_to=push, only_if_absent=if_absent)
        session.show({"key": key, "id": local.id, "pushed": push}, [local.id])


@app.command
def get(key: str, /, *, session: InSession) -> None:
    """Print the ref that a key names: its id, or a reference if it is at one of the remotes.

    Args:
        key: The key.
    """
    with session.open() as cache, naming.any_ref(cache, naming.KEY + key) as found:
        is_remote = isinstance(found, RemoteImmutableRef)
        session.show({"key": key, "id": found.id, "remote": is_remote, "size": session.size_of(found)}, [found.id])


@app.command
def ls(*, session: InSession) -> None:
    """List the keys of this store."""
    with session.open() as cache:
        records = cache.keys()
    documents = ({"key": one.key, "id": one.id, "updated": text.iso(one.updated)} for one in records)
    rows = ((one.id, text.when(one.updated), one.key) for one in records)
    session.show(documents, text.table(rows, ("id", "updated", "key")))
