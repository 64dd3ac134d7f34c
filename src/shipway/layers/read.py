"""Reading a layer blob that has no table of contents: all of it, in order."""

from __future__ import annotations

from collections.abc import Iterator

from shipway.errors import Truncated
from shipway.layers.blocks import Blocks, filled
from shipway.layers.bounds import BoundedSource, Bounds
from shipway.layers.compression import ByteSource, compression_of, decompressed
from shipway.layers.index import indexed
from shipway.layers.tar import TarReader
from shipway.oci import Descriptor
from shipway.trees.entry import Buffer, Content, Entry


class LayerReader:
    """Iterates over the entries of a layer, with their contents, as the pieces of its blob arrive.

    Stopping early is fine. No digest is checked: that is for whoever has the
    blob's. So the end marker of the archive has to be there, or it is `Truncated`: it alone shows that nothing is
    missing. Raises `UnknownMediaType`, `Corrupt`, `Truncated` or `UnsafeEntry`, which name `where`, and
    `TooLarge` if it passes `bounds`.
    """

    def __init__(
        self,
        pieces: Iterator[Buffer],
        descriptor: Descriptor,
        where: str = "",
        *,
        index: bool = False,
        bounds: Bounds | None = None,
    ) -> None:
        """Read `pieces`, the blob `descriptor`; with `index` one is prepared on the way."""
        self.index = indexed(pieces, descriptor, where) if index else None
        """What becomes an index; give it each entry. None where there can be none."""
        archive: ByteSource = self.index or decompressed(pieces, compression_of(descriptor.media_type, where), where)
        if bounds is not None:
            archive = BoundedSource(archive, bounds)
        self._tar = TarReader(Blocks(filled(archive)), where)
        self._bounds = bounds
        self._where = where

    def stored(self, entry: Entry) -> list[tuple[int, int, int]]:
        """Return where in the archive the content is that was handed over last: start in the file, place, length."""
        return self._tar.stored(entry.size) if entry.size else []

    def __iter__(self) -> Iterator[tuple[Entry, Content]]:
        for entry, content in self._tar:
            if self._bounds is not None:
                self._bounds.count(entry)
            yield entry, content
        if not self._tar.complete:
            raise Truncated("the archive has no end", where=self._where)


def read_layer(
    pieces: Iterator[Buffer], media_type: str, where: str = "", bounds: Bounds | None = None
) -> Iterator[tuple[Entry, Content]]:
    """Yield the entries of a layer of which only the media type is known; see `LayerReader`."""
    return iter(LayerReader(pieces, Descriptor(media_type=media_type, digest="", size=0), where, bounds=bounds))
