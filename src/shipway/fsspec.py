"""Refs as an fsspec filesystem, for pandas, Dask and all else that opens such URLs. Needs `shipway[fsspec]`.

    shipway://REF!/PATH        shipway://oci://ghcr.io/acme/data:2024!/tables/a.csv

`REF` is what the command line takes: a reference, `key:NAME`, an id or a unique prefix of one. The first `!` that a
slash or the end follows ends it, so keys that hold that, or `::` or a wildcard, which mean something to fsspec, cannot
be named in a URL. The filesystem is read-only. What it reads moves as `ref.open` and `ref.walk` say: a table of
contents for each layer, once, and of a file the chunks that are read.

A ref is looked up when it is first named, and stays what it was then, also if a tag or key moves on, until
`invalidate_cache()`; it is held until then, or until the process ends.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem

from shipway.cache import Cache
from shipway.errors import Invalid, NotFound
from shipway.naming import any_ref
from shipway.refs import AnyRef, FileStat
from shipway.values import FILE_TYPES

_TYPES = {"dir": "directory", "reg": "file", "symlink": "link"}


class _File(io.BufferedReader):
    """A file with the attribute that fsspec's own helpers look at."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.size = raw.seek(0, io.SEEK_END)
        raw.seek(0)


class ShipwayFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A read-only filesystem over refs, here or elsewhere. Thread-safe.

    Paths are `REF!/PATH`. What is not there is a `FileNotFoundError`, a directory that is opened an
    `IsADirectoryError`, a file that is listed lists itself, writing is an `OSError`; damaged bytes and
    remotes in trouble raise Shipway's own errors.
    """

    protocol: ClassVar[str] = "shipway"

    def __init__(
        self, root: str | None = None, driver: str = "auto", remotes: tuple[str, ...] = (), **options: Any
    ) -> None:
        """Use the store at `root` as `Cache.open` does; it is opened when it is first needed."""
        super().__init__(root=root, driver=driver, remotes=remotes, **options)
        self._open_cache = partial(Cache.open, root, driver=driver, remotes=remotes)
        self._refs: dict[str, AnyRef] = {}
        self._cache: Cache | None = None
        self._guard = threading.RLock()

    # What fsspec asks for

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is at `path`, a symlink followed: `name`, `type`, `size`, `mode`, `uid`, `gid`, `mtime`."""
        path = self._strip_protocol(path)
        with self._ref(path) as (ref, inside):
            return _info(path, ref, ref.stat(inside), ref.stat(inside, follow=False))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a directory. A symlink to a directory is of the type `link`, so that nobody who descends gets lost."""
        path = self._strip_protocol(path)
        with self._ref(path) as (ref, inside):
            top, *below = ref.walk(inside, depth=1)
            if top.kind != "dir":
                found = [_info(path, ref, top, ref.stat(inside, follow=False))]
            else:
                found = [_listed(f"{path}/{os.path.basename(one.path)}", ref, one) for one in below]
        return found if detail else [one["name"] for one in found]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise OSError(errno.EROFS, "refs are read-only", path)
        with self._ref(path) as (ref, inside):
            if ref.stat(inside).kind == "dir":
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)
            file = ref.open(inside)
            assert isinstance(file, io.BufferedReader)
            return _File(file.detach())

    def modified(self, path: str) -> datetime:
        """Return when the file was last changed, in UTC."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Let go of the ref that `path` is in, or of all, so that it is looked up again."""
        with self._guard:
            names = list(self._refs) if path is None else [_split(self._strip_protocol(path))[0]]
            for name in names:
                if name in self._refs:
                    self._refs.pop(name).release()
        super().invalidate_cache(path)

    # Refs

    @contextmanager
    def _ref(self, path: str) -> Iterator[tuple[AnyRef, str]]:
        """Yield the ref that `path` is in, and the path inside it; say what goes wrong in the system's terms."""
        name, inside = _split(path)
        try:
            yield self._held(name), inside
        except NotFound as error:
            raise FileNotFoundError(errno.ENOENT, str(error), path) from error
        except Invalid as error:
            raise OSError(errno.EINVAL, str(error), path) from error

    def _held(self, name: str) -> AnyRef:
        with self._guard:
            if self._cache is None:
                self._cache = self._open_cache()
                weakref.finalize(self, self._cache.close)
            if name not in self._refs:
                self._refs[name] = any_ref(self._cache, name)
            return self._refs[name]


def _split(path: str) -> tuple[str, str]:
    """Return the ref and the path inside it that a path of this filesystem names."""
    name, mark, inside = (path + "/").partition("!/")
    if not mark or not name:
        raise FileNotFoundError(errno.ENOENT, "no ref in it: write shipway://REF!/PATH", path)
    return name, "/" + inside.rstrip("/")


def _info(name: str, ref: AnyRef, seen: FileStat, itself: FileStat) -> dict[str, Any]:
    info = {
        "name": name,
        "type": _TYPES.get(seen.kind, "other"),
        "size": seen.size,
        "mode": FILE_TYPES[seen.kind] | seen.mode,
        "uid": seen.uid,
        "gid": seen.gid,
        "mtime": seen.mtime_ns / 1e9,
        "islink": itself.kind == "symlink",
        "ref": ref.id,
    }
    return info | ({"destination": itself.link} if itself.kind == "symlink" else {})


def _listed(name: str, ref: AnyRef, one: FileStat) -> dict[str, Any]:
    """Describe an item of a directory; a symlink to a file as that file, so that it can be opened like one."""
    target = one
    if one.kind == "symlink":
        try:
            followed = ref.stat(one.path)
        except (NotFound, Invalid):
            followed = one  # leads nowhere
        target = followed if followed.kind == "reg" else one
    return _info(name, ref, target, one)
