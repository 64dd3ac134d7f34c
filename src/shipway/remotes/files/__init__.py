"""Remotes that are files of this machine: OCI layouts, and the archives that other tools write.

`stored` is how their bytes are got at, in a directory, in a tar, or in memory; `layout` reads an OCI layout, wherever
that is stored; `writing` adds to one that is a directory; `docker` shows what `docker save` wrote as one.
"""

from shipway.remotes.files.docker import DockerArchive
from shipway.remotes.files.layout import LayoutRemote
from shipway.remotes.files.stored import Directory, Tar
from shipway.remotes.files.writing import WritableLayout

__all__ = ["Directory", "DockerArchive", "LayoutRemote", "Tar", "WritableLayout"]
