"""Adding to an OCI image layout, beside whoever else does so.

A blob is written under a name that nobody looks at and renamed when it is whole. `index.json` is replaced at once,
under a lock on `index.json.lock`, which BuildKit takes too; like BuildKit, whoever held it removes that file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec

from shipway import oci
from shipway.errors import Conflict, Corrupt, Locked
from shipway.local.blobs import disk_errors
from shipway.oci import Descriptor
from shipway.references import FileReference
from shipway.remotes.checks import check_references, checked_pieces, checked_target
from shipway.remotes.contract import Expected
from shipway.remotes.files.layout import INDEX, REF_NAME, LayoutRemote, blob_path
from shipway.remotes.files.stored import Directory

_MARK = "oci-layout"
_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
_WAIT = 60.0
"""Seconds that the lock is waited for."""
_POLL = 0.01


class WritableLayout(LayoutRemote):
    """A layout in a directory, which is made when something is first put there. Thread- and process-safe."""

    def __init__(self, reference: FileReference) -> None:
        """Use the directory of `reference`; nothing is opened yet."""
        super().__init__(reference, Directory(reference.path))
        self._root = reference.path

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        """Store a manifest under its digest, and under `tag`, if that is as `expected`.

        Without a tag it is not listed in `index.json`: it is there for others to refer to.
        """
        where = self._where(tag or descriptor.digest)
        oci.verify(data, descriptor.digest, descriptor.size, where)
        if tag is not None:
            checked_target(tag)
        check_references(data, self._is_there, self._is_there, where)
        self._counter.add(requests=1, sent=len(data))
        self._make()
        self._write(blob_path(descriptor.digest), [data])
        if tag is not None:
            with self._locked():
                self._list(descriptor, tag, expected, where)

    def _is_there(self, descriptor: Descriptor) -> bool:
        try:
            return os.stat(f"{self._root}/{blob_path(descriptor.digest)}").st_size == descriptor.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        """Store a blob; it appears when all of it was right."""
        del mount_from  # what is in another layout is on this machine as well
        where = self._where(descriptor.digest)
        self._counter.add(requests=1)
        with open_blob() as file:
            pieces = self._told(checked_pieces(file, descriptor, sent, where))
            self._make()
            self._write(blob_path(descriptor.digest), pieces)

    def _told(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._counter.add(sent=len(piece))
            yield piece

    def _make(self) -> None:
        """Make the layout, if it is not there."""
        with disk_errors(self._root):
            os.makedirs(f"{self._root}/blobs/sha256", exist_ok=True)
        if not os.path.exists(f"{self._root}/{_MARK}"):
            self._write(_MARK, [_VERSION])

    def _list(self, descriptor: Descriptor, tag: str, expected: Expected | None, where: str) -> None:
        """Make `tag` name a manifest in the index, all else in which stays as it is; call it with the lock held."""
        entries = self._entries() if os.path.exists(f"{self._root}/{INDEX}") else ()
        if expected is not None:
            present = [entry.digest for entry in entries if entry.annotations.get(REF_NAME) == tag]
            if present[-1:] not in ([expected.digest] if expected.digest else [], [descriptor.digest]):
                said = f"names {present[-1]} by now" if present else "is not there any more"
                raise Conflict(said, where=where, todo="look at what is there now")
        index = self._raw_index()
        listed = {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
            "annotations": {**descriptor.annotations, REF_NAME: tag},
        }
        others = [entry for entry in index.get("manifests") or () if not _is_named(entry, tag)]
        self._write(INDEX, [msgspec.json.encode({**index, "manifests": [*others, listed]})])

    def _raw_index(self) -> dict[str, Any]:
        if not os.path.exists(f"{self._root}/{INDEX}"):
            return {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}
        where = f"{self.name}/{INDEX}"
        try:
            return msgspec.json.decode(self._read(INDEX, where), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Corrupt(f"not a well-formed index: {error}", where=where) from error

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Make a file appear with all of `pieces` in it, in place of one that was there."""
        target, path = f"{self._root}/{name}", f"{self._root}/.shipway-{secrets.token_hex(8)}"
        with disk_errors(target):
            file = open(path, "xb")  # noqa: SIM115  closed below, whatever comes
        try:
            with file:
                for piece in pieces:
                    with disk_errors(target):
                        file.write(piece)
                with disk_errors(target):
                    file.flush()
                    os.fdatasync(file.fileno())
            with disk_errors(target):
                os.rename(path, target)
        except BaseException:
            os.unlink(path)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the index's lock in the block, having waited for it; `Locked` if that takes too long."""
        path = f"{self._root}/{INDEX}.lock"
        deadline = time.monotonic() + _WAIT
        while True:
            with disk_errors(path):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                if _take(fd, path):
                    try:
                        yield
                    finally:
                        os.unlink(path)  # before it is let go of, so that nobody removes another's
                    return
            finally:
                os.close(fd)
            if time.monotonic() > deadline:
                raise Locked("somebody else is writing to the layout", where=path, todo="try again later")
            time.sleep(_POLL)


def _take(fd: int, path: str) -> bool:
    """Lock an open file, unless somebody has it, or has removed it from where it was opened."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _is_named(entry: object, tag: str) -> bool:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return isinstance(annotations, dict) and annotations.get(REF_NAME) == tag
