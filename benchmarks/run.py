"""Run every benchmark, one after the other; options are passed on to each (`--json`).

python benchmarks/run.py [NAME...] [--json]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the named benchmarks, or all; return how many failed."""
    here = Path(__file__).parent
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    scripts = [here / f"{name}.py" for name in names] or sorted(set(here.glob("*.py")) - {Path(__file__)})
    failed = 0
    for script in scripts:
        print(f"== {script.stem}", file=sys.stderr, flush=True)
        failed += subprocess.run([sys.executable, script, *options], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
