"""Fuzzing the readers of what comes from outside, guided by coverage.

    python -m support.fuzzing tar|table|split|manifest SEEDS CORPUS [options of libFuzzer]

Whatever the bytes are, a reader gives what makes sense or raises one of the package's errors. Anything else, too much
memory or time, ends the run with a failure and the input that did it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import atheris
import zstandard

with atheris.instrument_imports(include=["shipway"]):
    from shipway import oci
    from shipway.errors import ShipwayError
    from shipway.layers.archive import SplitLocation, split_members
    from shipway.layers.bounds import Bounds
    from shipway.layers.estargz import Stargz
    from shipway.layers.read import read_layer
    from shipway.layers.toc import TocLocation, parse_toc, toc_location
    from shipway.limits import Limits
    from shipway.oci import LAYER_TAR, Descriptor, Document, Index, Manifest
    from shipway.transfer.images import check_diff_ids, parse_config, parse_manifest
    from shipway.trees.entry import Entry
    from shipway.trees.listing import Listing
    from shipway.trees.merged import merge

from support.hostile import BLOCK, END, gz, head, image, padded, plain, sealed, zstd
from support.hostile_tables import JSON, TABLES
from support.hostile_tars import ARCHIVES, layers_of

LIMITS = Limits(size=64 << 20, entries=10_000)
BLOB = 1 << 20
"""What tables of contents may take the blob's size for."""
LARGEST = 64 << 10
_NONE = Manifest(config=Descriptor(media_type=oci.CONFIG, digest="", size=0), layers=())
Reader = Callable[[bytes], object]


def read_tar(data: bytes) -> None:
    """Read an archive, whose headers have right checksums, or mutations of them would all be the same."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    tar = b"".join(sealed(block) if block[257:262] == b"ustar" and len(block) == BLOCK else block for block in blocks)
    entries = []
    for entry, content in read_layer(iter([tar + END]), LAYER_TAR, "fuzz", Bounds(LIMITS, len(tar), "fuzz")):
        _check(entry)
        if entry.kind == "reg":
            pieces = [content] if isinstance(content, (bytes, bytearray, memoryview)) else content
            assert isinstance(pieces, (list, Iterator))
            assert sum(piece if isinstance(piece, int) else len(piece) for piece in pieces) == entry.size
        entries.append(entry)
    merge([entries])


def read_table(data: bytes) -> None:
    """Read the JSON of a table of contents, as both formats have it."""
    packed = zstd(data)
    with suppress(ShipwayError):
        _check_table(parse_toc(packed, TocLocation(BLOB, len(packed), len(data), oci.sha256(packed)), "fuzz"))
    member = gz(head(b"0", "stargz.index.json", size=len(data)) + padded(data))
    _check_table(Stargz(BLOB, oci.sha256(data)).parse(member, "fuzz"))


def _check_table(entries: Listing) -> None:
    for entry in entries:
        _check(entry)
        assert sum(chunk.size for chunk in entry.chunks) == entry.size
        assert all(0 <= chunk.offset <= chunk.offset + chunk.length <= BLOB for chunk in entry.chunks)
    merge([entries])


def read_split(data: bytes) -> None:
    """Read the lines of a tar-split."""
    packed = zstd(data)
    files = [Entry(path=path, kind="reg", size=size) for path, size in (("a", 4), ("two", 3000))]
    for raw, entry in split_members(packed, SplitLocation(0, len(packed), len(data)), files, "fuzz"):
        assert raw is not None
        assert entry is None or entry in files


def read_manifest(data: bytes) -> None:
    """Read a manifest, an index and a configuration."""
    with suppress(ShipwayError):
        oci.decode(data, Index, "fuzz")
    with suppress(ShipwayError):
        assert oci.decode(data, Document, "fuzz").blobs is not None
    config = Descriptor(media_type=oci.CONFIG, digest=oci.sha256(data), size=len(data))
    with suppress(ShipwayError):
        check_diff_ids(parse_config(data, config, "fuzz").rootfs.diff_ids, _NONE, "fuzz")
    manifest = parse_manifest(data, "fuzz")
    for layer in manifest.layers:
        location = toc_location(layer)
        assert location is None or location.offset + location.length <= layer.size


def _check(entry: Entry) -> None:
    """Check what everybody takes for granted of an entry."""
    names = entry.path.split("/") if entry.path else []
    assert not {"", ".", ".."} & set(names), entry
    assert "\0" not in entry.path + entry.link, entry
    assert entry.size >= 0, entry
    assert 0 <= entry.mode <= 0o7777, entry
    assert min(entry.uid, entry.gid, *entry.dev) >= 0, entry
    assert (entry.kind == "reg") or not entry.size, entry


READERS: dict[str, Reader] = {"tar": read_tar, "table": read_table, "split": read_split, "manifest": read_manifest}


def seeds(reader: str) -> Iterator[bytes]:
    """Yield what to begin with: the hostile cases, made by hand."""
    if reader == "tar":
        for cases in ARCHIVES.values():
            for case in cases.values():
                yield from (one for one in layers_of(case, "/host")[1] if len(one) <= LARGEST)
    elif reader == "table":
        yield from (one for _, _, one in JSON.values() if len(one) <= LARGEST)
        yield from (_table(make().data) for _, _, make in TABLES.values())
    elif reader == "split":
        yield b'{"type":2,"payload":"AAAA","position":0}\n{"type":1,"name":"a","size":4,"payload":null,"position":1}\n'
        yield b'{"type":1,"name":"\\ufffd","name_raw":"Lg==","size":3000,"payload":"AAAAAAAAAAA=","position":1}\n'
    else:
        for case in ARCHIVES["twice"].values():
            made = image(*(plain(one) for one in layers_of(case, "/host")[1]))
            yield from (made.config, made.manifest)


def _table(blob: bytes) -> bytes:
    """Return the table of contents at the end of a blob; nothing if it is none, or large."""
    packed = blob[blob.rfind(b"\x50\x2a\x4d\x18") + 8 :]
    with suppress(zstandard.ZstdError):
        if zstandard.frame_content_size(packed) <= LARGEST:
            return zstandard.ZstdDecompressor().decompress(packed)
    return b""


def main() -> None:
    """Fuzz the reader that the command line names."""
    reader, where = sys.argv[1], Path(sys.argv[2])
    for number, seed in enumerate(seeds(reader)):
        (where / str(number)).write_bytes(seed)
    read = READERS[reader]

    def one_input(data: bytes) -> None:
        with suppress(ShipwayError):
            read(data)

    atheris.Setup([sys.argv[0], *sys.argv[3:], str(where)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
