"""Buckets as remotes: S3, Google Cloud Storage, Azure Blob Storage, and directories laid out as one.

`client` is the remote, `options` what a reference and the environment say about how to reach a bucket,
`errors` what a service's answers mean. Only this room imports obstore, and it is imported on first use.
"""

from shipway.remotes.bucket.client import BucketRemote

__all__ = ["BucketRemote"]
