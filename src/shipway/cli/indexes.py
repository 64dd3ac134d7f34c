"""index publish, index take: indexes of layers beside their image."""

from __future__ import annotations

from cyclopts import App

from shipway.cli import naming, text
from shipway.cli.session import InSession
from shipway.errors import Invalid
from shipway.refs import RemoteImmutableRef

app = App(name="index", help="Indexes of layers that have no table of contents, beside their image.", version_flags=())


@app.command
def publish(reference: str, /, *, session: InSession) -> None:
    """Put indexes of an image's layers beside it, and print the digest by which others take them.

    Layers without a table of contents are then read by ranges by whoever trusts that digest. Those that were not read
    whole yet are now.

    Args:
        reference: oci://host[:port]/repository[:tag][@digest].
    """
    with session.open() as cache, naming.any_ref(cache, reference) as found:
        if not isinstance(found, RemoteImmutableRef):
            raise _not_remote(reference)
        digest = found.publish_indexes()
    session.show({"reference": found.id, "digest": digest}, [digest])


@app.command
def take(reference: str, digest: str, /, *, session: InSession) -> None:
    """Keep the indexes of an image's layers that were published under a digest.

    Args:
        reference: oci://host[:port]/repository[:tag][@digest].
        digest: What `shipway index publish` printed, told by somebody who is trusted.
    """
    with session.open() as cache, naming.any_ref(cache, reference) as found:
        if not isinstance(found, RemoteImmutableRef):
            raise _not_remote(reference)
        count = found.take_indexes(digest)
    session.show({"reference": found.id, "layers": count}, [f"kept indexes of {text.plural(count, 'layer')}"])


def _not_remote(reference: str) -> Invalid:
    return Invalid("is in this store, and needs no index", where=reference)
