"""What is found on the way to a certificate's verdict, by whoever counts and whoever compares."""

from __future__ import annotations

import dataclasses
from dataclasses import field


@dataclasses.dataclass(slots=True)
class Findings:
    """Collected, and judged in the end."""

    violations: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    wrong: set[tuple[int, int]] = field(default_factory=set)
    """(attempt, step) of counts that are violations by themselves."""
    short: set[int] = field(default_factory=set)
    replayed: int = 0
    largest: float | None = None
    band: float | None = None
    """What a loss was allowed to differ by where steps do not give the same loss again; None: all of them do."""
    rounding: str | None = None
    """Why they do not."""
