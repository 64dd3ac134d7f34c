"""Where refs come from and go to: the contract of a remote, and its implementations."""
