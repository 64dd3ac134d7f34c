"""`python -m shipway`: the command line."""

from __future__ import annotations

import sys

from shipway.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
