"""Reading a layer blob that has no table of contents: all of it, in order."""

from __future__ import annotations

from collections.abc import Iterator

from shipway.errors import Truncated
from shipway.layers.blocks import Blocks, filled
from shipway.layers.bounds import BoundedSource, Bounds
from shipway.layers.compression import ByteSource, compression_of, decompressed
from shipway.layers.tar import TarReader
from shipway.trees.entry import Buffer, Content, Entry


def read_layer(
    pieces: Iterator[Buffer], media_type: str, where: str = "", bounds: Bounds | None = None
) -> Iterator[tuple[Entry, Content]]:
    """Yield the entries of a layer, with their contents, as the `pieces` of its blob arrive.

    Stopping early is fine. No digest is checked: that is for whoever has the
    blob's. So the end marker of the archive has to be there, or it is `Truncated`: it alone shows that nothing is
    missing. Raises `UnknownMediaType`, `Corrupt`, `Truncated` or `UnsafeEntry`, which name `where`, and
    `TooLarge` if it passes `bounds`.
    """
    source: ByteSource = decompressed(pieces, compression_of(media_type, where), where)
    if bounds is not None:
        source = BoundedSource(source, bounds)
    reader = TarReader(Blocks(filled(source)), where)
    for entry, content in reader:
        if bounds is not None:
            bounds.count(entry)
        yield entry, content
    if not reader.complete:
        raise Truncated("the archive has no end", where=where)
