"""Which table of contents a layer's descriptor promises."""

from __future__ import annotations

from shipway.layers.archive import makes_own_headers
from shipway.layers.compression import Compression, compression_of
from shipway.layers.estargz import Stargz, stargz
from shipway.layers.toc import TocLocation, toc_location
from shipway.oci import Descriptor

Stored = TocLocation | Stargz
"""A table of contents that is in the blob."""


def contents_of(descriptor: Descriptor) -> Stored | None:
    """Return the table of contents that the descriptor's annotations promise, or None without one.

    Raises `Corrupt` if they make no sense, `UnknownMediaType` if it is no layer.
    """
    compression = compression_of(descriptor.media_type, descriptor.digest)
    if compression is Compression.ZSTD:
        return toc_location(descriptor)
    return stargz(descriptor) if compression is Compression.GZIP else None


def tells_times(descriptor: Descriptor, contents: Stored) -> bool:
    """Whether a layer's table of contents has the exact times; stargz-snapshotter rounds them to seconds."""
    if isinstance(contents, TocLocation):
        return not contents.plain_digest
    return makes_own_headers(descriptor)


def form_of(descriptor: Descriptor) -> Compression:
    """Return which of the forms that Shipway writes a layer has; raises as `contents_of` does."""
    compression = compression_of(descriptor.media_type, descriptor.digest)
    if contents_of(descriptor) is None:
        return compression
    return Compression.ZSTD_CHUNKED if compression is Compression.ZSTD else Compression.ESTARGZ
