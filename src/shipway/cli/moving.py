"""push, pull: between this store and others."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from cyclopts import Parameter

from shipway.cli import naming, text
from shipway.cli.progress import shown
from shipway.cli.session import InSession, Session
from shipway.errors import Invalid
from shipway.references import FORMS
from shipway.refs import Pushed, RemoteImmutableRef


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class LayerForm:
    """The options that say which form layers get where they are copied to."""

    compression: str | None = None
    """zstd:chunked, zstd, gzip, estargz (changes DiffIDs), uncompressed: of all, in a push of those without a blob."""
    level: int | None = None
    """The compression's level: 1 to 22 for zstd and zstd:chunked, 0 to 3 for gzip and estargz."""
    force: bool = False
    """Pack layers again that have another form; with a level, all. Send blobs again that were lost there."""


def push(
    ref: str,
    reference: str,
    /,
    *,
    form: LayerForm = LayerForm(),
    session: InSession,
) -> None:
    """Copy a ref, as an OCI image, to a registry, bucket or worker; only what is lacking there moves.

    Args:
        ref: An id, a unique prefix of one, or key:NAME.
        reference: Where to: oci://host[:port]/repository[:tag], s3://bucket/prefix#name, oci-layout:///dir[:tag], …
    """
    with session.open() as cache, naming.local_ref(cache, ref) as local, shown(session) as progress:
        pushed = cache.push(local, reference, **asdict(form), progress=progress)
    show_pushed(session, pushed)


def convert(
    source: str,
    reference: str,
    /,
    *,
    form: LayerForm = LayerForm(),
    session: InSession,
) -> None:
    """Copy a ref, here or elsewhere, to a registry or worker with its layers in another form.

    With --compression all layers get that form; without it those that have a blob keep theirs.

    Args:
        source: An id, key:NAME, or an image elsewhere, oci://… or the like: then nothing is pulled into the store.
        reference: Where to: oci://host[:port]/repository[:tag], s3://bucket/prefix#name, oci-layout:///dir[:tag], …
    """
    with session.open() as cache, naming.any_ref(cache, source) as found, shown(session) as progress:
        wanted = replace(form, force=form.force or form.compression is not None)
        pushed = cache.push(found, reference, **asdict(wanted), progress=progress)
    show_pushed(session, pushed)


def show_pushed(session: Session, pushed: Pushed) -> None:
    """Print where an image is now, and what was moved."""
    session.show(asdict(pushed), [line(pushed)])


def line(pushed: Pushed) -> str:
    """Return where an image is now and what was moved, for people."""
    layers = f"{pushed.layers_moved} of {text.plural(pushed.layers, 'layer')} moved"
    return f"{pushed.digest}  {pushed.reference}  {layers}, {text.size(pushed.traffic.sent)} sent"


def pull(reference: str, /, *, session: InSession) -> None:
    """Copy an image into the store, and print the id of its ref.

    Args:
        reference: oci://host[:port]/repository[:tag][@digest], s3://bucket/prefix#name, oci-layout:///dir[:tag], …, or
            key:NAME.
    """
    if not (naming.is_reference(reference) or reference.startswith(naming.KEY)):
        raise Invalid("not a reference", where=reference, todo=f"write key:NAME or {FORMS}")
    with session.open() as cache, naming.any_ref(cache, reference) as found, shown(session) as progress:
        if not isinstance(found, RemoteImmutableRef):
            session.show({"id": found.id, "reference": None, "size": session.size_of(found)}, [found.id])
            return
        with found.pull(progress=progress) as local:
            document = {"id": local.id, "reference": found.id, "size": session.size_of(local)}
    session.show(document, [local.id])
