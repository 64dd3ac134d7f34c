"""Layers made of directories, and a sink that remembers what it was given."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shipway import oci
from shipway.layers.compression import Compression, media_type
from shipway.layers.pack import Packed, pack
from shipway.layers.unpack import Unpacked, unpack
from shipway.oci import Descriptor
from shipway.trees.diff import changes
from shipway.trees.directory import DirectoryTree
from shipway.trees.entry import Content, Entry, OpenFile


@dataclass(frozen=True)
class Layer:
    """A directory packed: its entries, the blob, and what packing returned."""

    entries: list[Entry]
    blob: bytes
    packed: Packed


def packed(root: Path, compression: Compression = Compression.ZSTD_CHUNKED, *, threads: int | None = None) -> Layer:
    """Pack a directory."""
    out = io.BytesIO()
    with DirectoryTree(root) as tree:
        entries = list(changes(None, tree))
        result = pack(tree, entries, out, compression=compression, threads=threads)
    return Layer(entries, out.getvalue(), result)


def cut(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    """Yield `data` in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def describe_blob(blob: bytes, compression: Compression) -> Descriptor:
    """Return the right descriptor of `blob`."""
    return Descriptor(media_type=media_type(compression), digest=oci.sha256(blob), size=len(blob))


def collect(archive: bytes, compression: Compression = Compression.UNCOMPRESSED) -> Collected:
    """Unpack a blob whose digests are right."""
    sink = Collected()
    sink.unpacked = unpack(cut(archive), describe_blob(archive, compression), None, sink)
    return sink


class Collected:
    """A sink that remembers entries, contents and the bytes that came as holes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.contents: dict[str, bytes] = {}
        self.holes: dict[str, int] = {}
        self.unpacked: Unpacked | None = None

    def __getitem__(self, path: str) -> Entry:
        found: Entry = next(entry for entry in self.entries if entry.path == path)
        return found

    def add(self, entry: Entry, content: Content = b"") -> None:
        self.entries.append(entry)
        if entry.kind == "reg":
            self.contents[entry.path] = self._read(entry.path, content)

    def _read(self, path: str, content: Content, /) -> bytes:
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content)
        assert not isinstance(content, OpenFile)
        parts = []
        for piece in content:
            if isinstance(piece, int):
                self.holes[path] = self.holes.get(path, 0) + piece
            parts.append(bytes(piece))
        return b"".join(parts)

    def finish(self) -> None:
        """Nothing is left to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass
