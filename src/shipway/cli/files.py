"""files, cat, extract, checksum: what is in a ref, wherever its bytes are."""

from __future__ import annotations

import base64
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shipway.cli import documents, naming, text
from shipway.cli.progress import shown
from shipway.cli.session import InSession
from shipway.refs import FileStat

PIECE = 1 << 20


def files(
    ref: str,
    path: str = "/",
    /,
    *,
    long: Annotated[bool, Parameter(alias="-l")] = False,
    session: InSession,
) -> None:
    """List the files of a ref, with all that is below a directory.

    Args:
        ref: An id, a unique prefix of one, key:NAME, or oci://…
        path: Where to begin; symlinks on the way are followed inside the tree.
        long: Show mode, owner, size and time too.
    """
    with session.open() as cache, naming.any_ref(cache, ref) as found:
        seen = found.walk(path)
        line = text.long_line if long else _path_line
        session.show(map(documents.file, seen), map(line, seen))


def _path_line(item: FileStat) -> str:
    return text.visible(item.path)


def cat(ref: str, path: str, /, *, session: InSession) -> None:
    """Write the content of a file to standard output.

    Args:
        ref: An id, a unique prefix of one, key:NAME, or oci://…
        path: The file; symlinks are followed inside the tree.
    """
    with session.open() as cache, naming.any_ref(cache, ref) as found, found.open(path) as file:
        if session.json:
            session.show(_content_document(found.stat(path).path, file.read()), [])
        else:
            shutil.copyfileobj(file, sys.stdout.buffer, PIECE)


def _content_document(path: str, content: bytes) -> documents.Document:
    document = {"path": path, "size": len(content)}
    try:
        return document | {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return document | {"encoding": "base64", "content": base64.b64encode(content).decode()}


def extract(
    ref: str,
    dest: Path,
    /,
    *src: Annotated[str, Parameter(name="SRC")],
    parents: bool = False,
    wildcard: bool = False,
    session: InSession,
) -> None:
    """Copy files out of a ref, as `cp -a` does; of a remote one, only what is needed moves.

    Args:
        ref: An id, a unique prefix of one, key:NAME, or oci://…
        dest: The directory that they land in.
        src: Paths in the tree; everything if there are none.
        parents: Keep the whole path of each source below DEST.
        wildcard: Sources are patterns: *, ?, […] and **.
    """
    with session.open() as cache, naming.any_ref(cache, ref) as found, shown(session) as progress:
        done = found.extract(dest, *src, parents=parents, wildcard=wildcard, progress=progress)
        what = f"extracted {text.plural(done.entries, 'entry', 'entries')}, {text.size(done.size)}"
        moved = f", moved {text.size(done.traffic.received)} of {text.size(found.size())}"
        lines = [what + (moved if done.traffic.requests else "")]
    session.show(asdict(done), lines)
    for path in done.skipped:
        sys.stderr.write(f"shipway: {text.visible(path)}: skipped, making a device needs privileges\n")


def checksum(
    ref: str,
    path: str = "/",
    /,
    *,
    no_follow: bool = False,
    wildcard: bool = False,
    include: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    exclude: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    session: InSession,
) -> None:
    """Print a digest of names, contents, modes and owners at a path, for cache keys: not of times.

    Args:
        ref: An id, a unique prefix of one, key:NAME, or oci://…
        path: A path in the tree; everything if there is none.
        no_follow: Take a symlink at the end of the path as it is.
        wildcard: The path is a pattern: *, ? and […].
        include: A pattern, as in a .dockerignore, for what counts below the path; may be repeated.
        exclude: A pattern for what does not; may be repeated.
    """
    with session.open() as cache, naming.any_ref(cache, ref) as found:
        digest = found.checksum(path, follow=not no_follow, wildcard=wildcard, include=include, exclude=exclude)
        session.show({"path": path, "digest": digest}, [digest])
