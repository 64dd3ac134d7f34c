"""Where refs come from and go to: the contract of a remote, and its implementations."""

from shipway.remotes.contract import Remote
from shipway.remotes.open import open_remote, open_target

__all__ = ["Remote", "open_remote", "open_target"]
