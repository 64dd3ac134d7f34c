"""Layers made of real directories, and the plainest remote that can hold them: a directory of blobs."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shipway.errors import NotFound, Truncated
from shipway.layers.compression import Compression
from shipway.layers.pack import pack
from shipway.oci import Descriptor
from shipway.refs import Traffic
from shipway.remotes.contract import Expected, Remote
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree


class FileRemote:
    """Blobs in files named by their digests: read as they are, so that tests can damage them."""

    name = "file remote"

    def __init__(self, root: Path, piece: int = 1 << 20) -> None:
        self.requests: list[tuple[str, int, int]] = []
        """Digest, offset and length of all that was asked for."""
        self._root = root
        self._piece = piece
        self._received = 0
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)

    @property
    def traffic(self) -> Traffic:
        return Traffic(len(self.requests), self._received, 0)

    def path(self, descriptor: Descriptor) -> Path:
        return self._root / descriptor.digest

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self.path(descriptor).exists()

    @contextmanager
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, length: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        length = descriptor.size - offset if length is None else length
        if not length and descriptor.size:  # nothing is asked for that
            yield iter(())
            return
        with self._lock:
            self.requests.append((descriptor.digest, offset, length))
        if not self.has_blob(descriptor):
            raise NotFound("no such blob", where=f"{self.name}@{descriptor.digest}")
        with open(self.path(descriptor), "rb", buffering=0) as file:
            yield self._pieces(file, offset, length, descriptor.digest)

    def _pieces(self, file: BinaryIO, offset: int, length: int, digest: str) -> Iterator[bytes]:
        file.seek(offset)
        while length:
            piece = file.read(min(self._piece, length))
            if not piece:
                raise Truncated(f"{length} bytes are missing", where=f"{self.name}@{digest}")
            length -= len(piece)
            with self._lock:
                self._received += len(piece)
            yield piece

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        sent: Callable[[int], None] = lambda _: None,
        *,
        mount_from: str | None = None,
    ) -> None:
        del mount_from  # there is no other repository
        with open_blob() as blob:
            sent(self.path(descriptor).write_bytes(blob.read()))

    def manifest(self, target: str) -> tuple[Descriptor, bytes]:
        raise NotFound("holds no manifests", where=f"{self.name}:{target}")

    def put_manifest(
        self, descriptor: Descriptor, data: bytes, *, tag: str | None = None, expected: Expected | None = None
    ) -> None:
        raise NotImplementedError

    def tags(self) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        pass


PutVersions = Callable[[Remote, Sequence[Compression]], list[Descriptor]]
"""Puts a layer for each of the first versions of a tree into a remote, compressed as asked."""


def pack_layer(lower: Path | None, upper: Path, compression: Compression) -> tuple[Descriptor, bytes]:
    """Pack what makes `upper` of `lower`."""
    out = io.BytesIO()
    with DirectoryTree(upper) as tree:
        if lower is None:
            entries = list(changes(None, tree))
        else:
            with DirectoryTree(lower) as below:
                entries = list(changes(below, tree))
        packed = pack(tree, entries, out, compression=compression)
    return packed.descriptor, out.getvalue()


def put_layer(
    remote: Remote, lower: Path | None, upper: Path, compression: Compression = Compression.ZSTD_CHUNKED
) -> Descriptor:
    """Pack what makes `upper` of `lower`, put it into `remote`, and return its descriptor."""
    descriptor, blob = pack_layer(lower, upper, compression)
    remote.put_blob(descriptor, lambda: io.BytesIO(blob))
    return descriptor


def put_layers(remote: Remote, trees: Sequence[Path], compressions: Sequence[Compression]) -> list[Descriptor]:
    """Put one layer for each of `trees`, each made of the one before."""
    return [
        put_layer(remote, lower, upper, compression)
        for lower, upper, compression in zip([None, *trees[:-1]], trees, compressions, strict=True)
    ]


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a tree with the system's own cp, and return where it is now."""
    status = os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(source), str(target))
    assert status == 0
    return target
