"""Writing what makes a blob eStargz: the table of contents as the archive's last entry, footer, annotations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
from isal import igzip, isal_zlib

from shipway import oci
from shipway.layers.blocks import padding
from shipway.layers.chunked import ESTARGZ, HEADERS, HEADERS_VERSION, MAX_TABLE
from shipway.layers.compressing import Compressing
from shipway.layers.estargz import FOOTER, UNCOMPRESSED_SIZE
from shipway.layers.headers import END_OF_ARCHIVE, LANDMARK, TABLE_NAME, header
from shipway.layers.table import End, FileContent, chunk_record, record_of
from shipway.trees.entry import Buffer, Entry

LANDMARK_ENTRY = Entry(path=LANDMARK, kind="reg", mode=0o644, size=1)
"""The first entry of an archive; it says that nothing should be fetched ahead."""
LANDMARK_CONTENT = b"\x0f"
BEGIN = header(LANDMARK_ENTRY, LANDMARK) + LANDMARK_CONTENT
"""What an archive begins with."""
_GZIP = 31
"""What zlib calls the form of its output."""
_EMPTY = oci.sha256(b"")
_encode = msgspec.json.Encoder().encode


class StargzWriter:
    """Collects a layer's entries in order, with their chunks; implements `LayerTable`."""

    headers_apart = False

    def __init__(self, level: int) -> None:
        """Start an empty table; `level` is that of gzip."""
        self._level = level
        self._text = Compressing(1)
        self._text.add(b'{"version":1,"entries":[')
        self._separator = b""

    def add(self, entry: Entry, name: str, header: Buffer, content: FileContent | None = None) -> None:  # noqa: ARG002  of the contract
        """Take the next entry and its archive name."""
        record = record_of(entry, name, content)
        record.end_offset = 0
        record.chunk_type = ""
        if content is None:
            record.digest = _EMPTY if record.type == "reg" else ""
        else:
            record.chunk_digest = content.chunks[0].digest
            record.chunk_size = content.chunks[0].size if len(content.chunks) > 1 else 0
        self._put(_encode(record))
        if content is not None:
            for chunk in content.chunks[1:]:
                more = chunk_record(record.name, chunk)
                more.chunk_type = ""
                more.chunk_size = chunk.size if chunk is not content.chunks[-1] else 0
                self._put(_encode(more))

    def trailer(self, raw: Buffer) -> None:
        """Take raw bytes that belong to no entry's content: of no use here."""

    def _put(self, text: bytes) -> None:
        if self._text.size <= MAX_TABLE:
            self._text.add(self._separator + text)
            self._separator = b","

    def finish(self, offset: int, archive: int) -> End:
        """Return the end of a blob that has `offset` bytes so far, of `archive` bytes of tar."""
        self._text.add(b"]}")
        size = self._text.size
        if size > MAX_TABLE:
            return End([igzip.compress(END_OF_ARCHIVE, self._level, mtime=0)], [END_OF_ARCHIVE], {})
        digest = hashlib.sha256()
        for piece in self._text.pieces():
            digest.update(piece)
        begin = header(Entry(path=TABLE_NAME, kind="reg", size=size), TABLE_NAME)
        end = bytes(padding(size)) + END_OF_ARCHIVE
        annotations = {
            ESTARGZ: "sha256:" + digest.hexdigest(),
            UNCOMPRESSED_SIZE: str(archive + len(begin) + size + len(end)),
            HEADERS: HEADERS_VERSION,
        }
        return End(
            chain(_member(chain([begin], self._text.pieces(), [end]), self._level), [FOOTER % offset]),
            chain([begin], self._text.pieces(), [end]),
            annotations,
        )


def _member(pieces: Iterable[bytes], level: int) -> Iterator[bytes]:
    """Yield a gzip member that holds `pieces`."""
    compressor = isal_zlib.compressobj(level, wbits=_GZIP)
    yield from map(compressor.compress, pieces)
    yield compressor.flush()
