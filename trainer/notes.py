"""Lines for people, on stderr and from one rank only; stdout belongs to the logged values."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"[INFO:guardian.trainer] {text}", file=sys.stderr, flush=True)
