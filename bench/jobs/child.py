"""What child.c does, for a machine without a C compiler: an interpreter's start is then in every figure."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

BEGAN = time.monotonic_ns()


def main(notes: Path, life_s: float, deaths: int) -> int:
    """Note the beginning; live, note the end and die, or leave when enough deaths are noted."""
    note(notes, "began", BEGAN)
    if notes.read_text("ascii").count("died") >= deaths:
        return 0
    time.sleep(life_s + BEGAN // 1000 % 1000 / 1000)
    note(notes, "died", time.monotonic_ns())
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


def note(notes: Path, what: str, at: int) -> None:
    """One line, with one write."""
    with notes.open("a", encoding="ascii") as file:
        file.write(f"{what} {at}\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
