"""`python -m guardian` is the same program as the `guardian` command."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # As in `entry`, and before anything is imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from guardian.cli.main import entry

    entry()
