"""`python -m guardian` is the same program as the `guardian` command."""

from __future__ import annotations

from guardian.cli.main import entry

if __name__ == "__main__":
    entry()
