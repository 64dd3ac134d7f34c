"""A tree as bytes: tar, compression, zstd:chunked; packing and unpacking."""
