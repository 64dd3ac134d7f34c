"""A worker seen over HTTP: the store as an OCI distribution registry."""

from shipway.server.app import make_app, serve, serving
from shipway.server.backend import Backend, BlobWriter

__all__ = ["Backend", "BlobWriter", "make_app", "serve", "serving"]
