"""A worker seen over HTTP: the store as an OCI distribution registry."""
