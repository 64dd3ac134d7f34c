"""Where the system's own errors become Shipway's: at the public face, once for all that lies below.

A disk that fails, a descriptor that cannot be had or a directory that was taken away can show at any system
call. Whoever calls a public method gets a `ShipwayError` for it; what a progress callback or the body of a `with` block
raises is theirs, and passes.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, _GeneratorContextManager, contextmanager
from types import FunctionType, TracebackType
from typing import Any, TypeVar

from shipway.errors import NoSpace, ShipwayError, Unavailable

_Class = TypeVar("_Class", bound=type)


def typed_errors(kind: _Class) -> _Class:
    """Make the public methods of a class raise no `OSError`."""
    for name, member in list(vars(kind).items()):
        if name.startswith("_") and name not in ("__enter__", "__exit__"):
            continue
        if isinstance(member, FunctionType):
            setattr(kind, name, _typed(member))
        elif isinstance(member, classmethod):
            setattr(kind, name, classmethod(_typed(member.__func__)))
    return kind


def _as_ours(error: OSError) -> ShipwayError:
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("no space left on the disk", where=named, todo="free some, or `shipway prune`")
    return Unavailable(f"the system refused: {error.strerror}", where=named)


def _typed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        foreign: list[OSError] = []
        if kwargs.get("progress") is not None:
            kwargs["progress"] = _noting(kwargs["progress"], foreign)
        with _typing(foreign):
            result = method(self, *args, **kwargs)
        return _Block(result) if isinstance(result, _GeneratorContextManager) else result

    return call


def _noting(progress: Callable[[Any], object], foreign: list[OSError]) -> Callable[[Any], None]:
    def call(moment: Any) -> None:
        try:
            progress(moment)
        except OSError as error:
            foreign.append(error)
            raise

    return call


@contextmanager
def _typing(foreign: list[OSError]) -> Iterator[None]:
    try:
        yield
    except ShipwayError as error:
        for one in foreign:
            if error.__cause__ is one:  # typed further down, where it was not known for theirs
                raise one from None
        raise
    except OSError as error:
        if any(error is one for one in foreign):
            raise
        raise _as_ours(error) from error


class _Block:
    """A `with` block whose own errors, on its way in and out, are typed; those of its body pass."""

    def __init__(self, block: AbstractContextManager[Any]) -> None:
        self._block = block

    def __enter__(self) -> Any:
        with _typing([]):
            return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        foreign = [error] if isinstance(error, OSError) else []
        with _typing(foreign):
            return self._block.__exit__(kind, error, trace)
