"""merge, diff: refs made of others."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from shipway.cli import moving, naming
from shipway.cli.progress import shown
from shipway.cli.session import InSession, Session
from shipway.errors import Invalid
from shipway.refs import AnyRef, RemoteImmutableRef

if TYPE_CHECKING:
    from shipway.cache import Cache


def merge(*refs: str, key: str | None = None, push: str | None = None, session: InSession) -> None:
    """Lay the trees of refs over each other, later ones over earlier, and print the new ref's id.

    Args:
        refs: Refs here or elsewhere, lowest first.
        key: A cache key to put it under.
        push: Copy it there instead of keeping it; of refs in one registry only a manifest moves.
    """
    with session.open() as cache, ExitStack() as stack:
        made = cache.merge([_held(cache, ref, stack) for ref in refs])
        if made is None:
            raise Invalid("no refs to merge", where="merge", todo="name at least one")
        stack.callback(made.release)
        _keep(cache, made, key, push, session)


def diff(lower: str, upper: str, /, *, key: str | None = None, push: str | None = None, session: InSession) -> None:
    """Make a ref of what UPPER changes in LOWER, deletions too, and print its id.

    Args:
        lower: A ref here or elsewhere.
        upper: Another one.
        key: A cache key to put it under.
        push: Copy it there instead of keeping it.
    """
    with session.open() as cache, ExitStack() as stack:
        made = cache.diff(_held(cache, lower, stack), _held(cache, upper, stack))
        assert made is not None  # two refs were given
        stack.callback(made.release)
        _keep(cache, made, key, push, session)


def _held(cache: Cache, text: str, stack: ExitStack) -> AnyRef:
    """Return the ref that `text` names, held as long as `stack`."""
    ref = naming.any_ref(cache, text)
    stack.callback(ref.release)
    return ref


def _keep(cache: Cache, made: AnyRef, key: str | None, push: str | None, session: Session) -> None:
    """Print what became of a ref that was made: pushed, or in the store."""
    if push is not None:
        if key is not None:
            raise Invalid("either --key or --push, not both", where="--key")
        with shown(session) as progress:
            pushed = cache.push(made, push, progress=progress)
        session.show({"id": None, "parents": [], "key": None, "pushed": asdict(pushed)}, [moving.line(pushed)])
        return
    with ExitStack() as stack:
        if isinstance(made, RemoteImmutableRef):
            with shown(session) as progress:
                local = stack.enter_context(made.pull(progress=progress))
        else:
            local = made
        if key is not None:
            cache.put(key, local)
        parents = next(list(one.parents) for one in cache.disk_usage([f"id=={local.id}"]))
        session.show({"id": local.id, "parents": parents, "key": key, "pushed": None}, [local.id])
