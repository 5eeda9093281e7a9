"""`python -m guardian` is the same program as the `guardian` command."""

from __future__ import annotations

import sys

from guardian.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
