"""Layers in the form that a push is to have them in, where they have another."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast

from shipway import oci
from shipway.errors import Corrupt, Invalid
from shipway.layers.compression import ByteSource, Compression, compression_of, decompressed
from shipway.layers.formats import form_of
from shipway.layers.frames import frames
from shipway.layers.pack import Packed
from shipway.layers.repack import repack
from shipway.local.blobs import disk_errors
from shipway.local.store import Store
from shipway.oci import Descriptor
from shipway.progress import ProgressCallback
from shipway.remotes.contract import BlobSource, until_right
from shipway.trees.entry import Buffer


@dataclass(frozen=True, slots=True)
class Encoding:
    """How layers are to be compressed: those that have to be packed anyway, or, by `force`, all."""

    compression: Compression = Compression.ZSTD_CHUNKED
    level: int | None = None
    force: bool = False

    @classmethod
    def of(cls, compression: str | None, level: int | None, *, force: bool) -> Encoding:
        """Return an encoding by name (None: zstd:chunked); `Invalid` for one or a level that there is not."""
        try:
            found = Compression(compression or Compression.ZSTD_CHUNKED)
        except ValueError:
            known = ", ".join(Compression)
            raise Invalid(f"no such compression: {compression!r}", todo=f"choose one of {known}") from None
        frames(found, level)
        return cls(found, level, force)

    def best(self, blobs: Sequence[Descriptor]) -> Descriptor | None:
        """Return which of the blobs of a layer, newest first, to send: one in this form, else the newest."""
        if len(blobs) > 1:
            for blob in blobs:
                with suppress(Corrupt):  # what its annotations say makes no sense, so it is none of the forms
                    if form_of(blob) is self.compression:
                        return blob
        return next(iter(blobs), None)

    def fits(self, descriptor: Descriptor) -> bool:
        """Whether a layer's blob will do as it is. Which level it was made with nobody can tell."""
        return not self.force or (self.level is None and form_of(descriptor) is self.compression)


def reencoded(
    store: Store,
    layer: tuple[Descriptor, str],
    source: BlobSource | None,
    encoding: Encoding,
    progress: ProgressCallback | None,
) -> tuple[Descriptor, str]:
    """Return a blob in the store that holds a layer in the form of `encoding`, and its DiffID.

    The layer, a blob and its DiffID, is read from `source`, None for the store itself, and checked against both. The
    DiffID stays, but for eStargz. A blob in the right form that the store has already is taken as it is.
    """
    descriptor, diff_id = layer
    with store.leases.locked(f"encode-{descriptor.digest.removeprefix('sha256:')}"):
        if encoding.level is None and encoding.compression is not Compression.ESTARGZ:
            for known in store.blobs.of_layer(diff_id):
                if encoding.fits(known) and store.blobs.path(known.digest).exists():
                    return known, diff_id
        packed = until_right(partial(_repacked, store, layer, source, encoding, progress))
    return packed.descriptor, packed.diff_id


def _repacked(
    store: Store,
    layer: tuple[Descriptor, str],
    source: BlobSource | None,
    encoding: Encoding,
    progress: ProgressCallback | None,
) -> Packed:
    descriptor, diff_id = layer
    with (
        _open(store, descriptor, source) as pieces,
        store.blobs.ingest() as ingest,
        disk_errors(descriptor.digest),
        tempfile.TemporaryFile(dir=store.root / "ingest", prefix="encode-") as spool,
    ):
        archive = _Archive(pieces, descriptor, diff_id)
        packed = repack(
            archive,
            ingest.file,
            cast("BinaryIO", spool),
            encoding.compression,
            encoding.level,
            where=descriptor.digest,
            progress=progress,
        )
        archive.check()
        _check_diff_id(packed, diff_id, encoding, descriptor)
        store.blobs.keep(ingest, packed.descriptor, packed.diff_id)
    return packed


def _open(
    store: Store, descriptor: Descriptor, source: BlobSource | None
) -> AbstractContextManager[Iterator[bytes | memoryview]]:
    if source is None:
        return cast("AbstractContextManager[Iterator[bytes | memoryview]]", store.read_blob(descriptor))
    return source.read_blob(descriptor)


def _check_diff_id(packed: Packed, diff_id: str, encoding: Encoding, descriptor: Descriptor) -> None:
    if encoding.compression is not Compression.ESTARGZ:
        oci.check_match(packed.diff_id, diff_id, f"{descriptor.digest} packed again")


class _Archive:
    """What a blob decompresses to, as a `ByteSource`; blob and archive are hashed on the way."""

    def __init__(self, pieces: Iterator[Buffer], descriptor: Descriptor, diff_id: str) -> None:
        self._pieces = self._hashed(pieces)
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._size = 0
        self._blob = hashlib.sha256()
        self._plain = hashlib.sha256()
        where = descriptor.digest
        self._source: ByteSource = decompressed(self._pieces, compression_of(descriptor.media_type, where), where)

    def _hashed(self, pieces: Iterator[Buffer]) -> Iterator[Buffer]:
        for piece in pieces:
            self._size += len(piece)
            self._blob.update(piece)
            yield piece

    def readinto(self, buffer: memoryview, /) -> int:
        size = self._source.readinto(buffer)
        self._plain.update(buffer[:size])
        return size

    def check(self) -> None:
        """Raise `Corrupt`, or a kind of it, unless all was as promised."""
        for _ in self._pieces:
            pass
        where = self._descriptor.digest
        oci.check_size(self._size, self._descriptor.size, where)
        oci.check_match("sha256:" + self._blob.hexdigest(), self._descriptor.digest, where)
        oci.check_match("sha256:" + self._plain.hexdigest(), self._diff_id, f"{where} unpacked")
