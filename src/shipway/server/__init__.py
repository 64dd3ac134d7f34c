"""A worker seen over HTTP: the store as an OCI distribution registry."""

from shipway.server.app import serve, serving
from shipway.server.backend import Backend, BlobWriter

__all__ = ["Backend", "BlobWriter", "serve", "serving"]
