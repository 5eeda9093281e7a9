"""What a command cannot do, said on stderr: a line for each complaint, and nothing in it that drives the terminal."""

from __future__ import annotations

import sys


def complain(text: str) -> None:
    """Say why; the exit code is the caller's."""
    from guardian.ui.plain import PREFIX, printable

    for line in text.split("\n"):
        sys.stderr.write(f"{PREFIX}error: {printable(line)}\n")
