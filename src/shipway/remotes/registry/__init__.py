"""A remote over the OCI distribution API."""
