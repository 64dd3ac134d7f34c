"""eStargz as another program writes it: Python's tar headers, times in whole seconds, chunks of any size."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from isal import igzip

from shipway import oci
from shipway.layers.chunked import ESTARGZ, modtime
from shipway.oci import Descriptor
from support.trees import below

FOOTER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0%016xSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"
OLD_FOOTER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x16\0%016xSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"
Json = dict[str, Any]
_TYPES = {
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


class StargzWriter:
    """Writes an archive in gzip members, one a chunk, or of at least `least` bytes where chunks are smaller."""

    def __init__(self, *, chunk: int, least: int = 0) -> None:
        self.records: list[Json] = []
        self._chunk = chunk
        self._least = least
        self._blob = bytearray()
        self._plain = bytearray()
        self._member = bytearray()

    def add(self, header: bytes, record: Json, content: bytes = b"") -> None:
        """Write an entry of the archive, and enter it in the table."""
        self._member += header
        if not content:
            self.records.append(record)
        for start in range(0, len(content), self._chunk):
            data = content[start : start + self._chunk]
            if len(self._member) >= max(self._least, 1):
                self._end_member()
            place: Json = {"offset": len(self._blob), "chunkDigest": oci.sha256(data)}
            if self._member:
                place["innerOffset"] = len(self._member)
            if start + len(data) < len(content):
                place["chunkSize"] = len(data)
            if start:
                place |= {"type": "chunk", "name": record["name"], "chunkOffset": start}
            else:
                place |= {**record, "size": len(content), "digest": oci.sha256(content)}
            self.records.append(place)
            self._member += data
        self._member += bytes(-len(content) % 512)

    def _end_member(self) -> None:
        self._blob += igzip.compress(bytes(self._member), 1)
        self._plain += self._member
        self._member.clear()

    def finish(self, footer: bytes = FOOTER) -> tuple[Descriptor, bytes]:
        """Return the blob and its descriptor."""
        self._end_member()
        table = msgspec.json.encode({"version": 1, "entries": self.records})
        offset = len(self._blob)
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(table)
        self._member += info.tobuf() + table + bytes(-len(table) % 512) + bytes(1024)
        self._end_member()
        blob = bytes(self._blob) + footer % offset
        annotations = {ESTARGZ: oci.sha256(table), oci.UNCOMPRESSED: oci.sha256(bytes(self._plain))}
        return Descriptor(
            media_type=oci.LAYER_GZIP, digest=oci.sha256(blob), size=len(blob), annotations=annotations
        ), blob


def written(tree: Path, *, chunk: int = 512 << 10, least: int = 0, first: Sequence[str] = ()) -> StargzWriter:
    """Write all of a directory; the files of `first` come before the others, and a landmark between the two."""
    writer = StargzWriter(chunk=chunk, least=least)
    with tarfile.open(fileobj=io.BytesIO(), mode="w", dereference=False) as archive:  # to look at files with
        paths = sorted(below(tree), key=lambda path: os.fsencode(path).replace(b"/", b"\0"))
        ahead = [tree / name for name in first]
        for path in ahead:
            _add(writer, archive, tree, path)
        mark = ".prefetch.landmark" if first else ".no.prefetch.landmark"
        info = tarfile.TarInfo(mark)
        info.size = 1
        writer.add(info.tobuf(), {"type": "reg", "name": mark, "mode": 0o644}, b"\x0f")
        for path in [tree, *paths]:
            if path not in ahead:
                _add(writer, archive, tree, path)
    return writer


def _add(writer: StargzWriter, archive: tarfile.TarFile, tree: Path, path: Path) -> None:
    seen = path.lstat()
    info = archive.gettarinfo(path, arcname=str(path.relative_to(tree)))
    info.mode = stat.S_IMODE(seen.st_mode)
    info.mtime = 0
    info.pax_headers = {"mtime": f"{seen.st_mtime_ns // 10**9}.{seen.st_mtime_ns % 10**9:09}"}
    name = os.fsencode(info.name).decode(errors="replace")
    kind = _TYPES.get(info.type, "reg")
    record: Json = {
        "type": kind,
        "name": name + "/" * info.isdir(),
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
    }
    if time := modtime((seen.st_mtime_ns + 500_000_000) // 10**9 * 10**9):
        record["modtime"] = time
    if info.ischr() or info.isblk():
        record |= {"devMajor": info.devmajor, "devMinor": info.devminor}
    if info.issym() or info.islnk():
        record["linkName"] = os.fsencode(info.linkname).decode(errors="replace")
    for key in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, key, follow_symlinks=False)
        info.pax_headers[f"SCHILY.xattr.{key}"] = value.decode(errors="surrogateescape")
        record.setdefault("xattrs", {})[key] = value
    header = info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")
    writer.add(header, record, path.read_bytes() if info.isreg() else b"")
