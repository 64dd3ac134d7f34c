"""Shipway: build caches as refs that can be mounted, changed, committed and moved."""
