"""What is on this disk: records and leases, blobs."""
