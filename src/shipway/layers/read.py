"""Reading a layer blob that has no table of contents: all of it, in order."""

from __future__ import annotations

from collections.abc import Iterator

from shipway.errors import Truncated
from shipway.layers.blocks import Blocks, filled
from shipway.layers.compression import compression_of, decompressed
from shipway.layers.tar import TarReader
from shipway.trees.entry import Buffer, Content, Entry


def read_layer(pieces: Iterator[Buffer], media_type: str, where: str = "") -> Iterator[tuple[Entry, Content]]:
    """Yield the entries of a layer, with their contents, as the `pieces` of its blob arrive.

    Stopping early is fine. No digest is checked: that is for whoever has the
    blob's. So the end marker of the archive has to be there, or it is `Truncated`: it alone shows that nothing is
    missing. Raises `UnknownMediaType`, `Corrupt`, `Truncated` or `UnsafeEntry`, which name `where`.
    """
    source = decompressed(pieces, compression_of(media_type, where), where)
    reader = TarReader(Blocks(filled(source)), where)
    yield from reader
    if not reader.complete:
        raise Truncated("the archive has no end", where=where)
